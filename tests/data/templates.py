"""Chat templates in the styles that checkpoints carry, in our own words, and a small tokenizer."""

import json

CONTROLS = (
    "<s> </s> <|im_start|> <|im_end|> <|begin_of_text|> <|start_header_id|> <|end_header_id|> "
    "<|eot_id|> <|endoftext|> <start_of_turn> <end_of_turn> <|end|> <think> </think> <tool_call> "
    "</tool_call> <tool_response> </tool_response> <|User|> <|Assistant|>"
).split()
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
_LOOP = "{% for m in messages %}"
_NO_SYSTEM = (
    "{% if messages and messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
)
_LLAMA3 = (
    "{{ '<|begin_of_text|>' }}" + _LOOP + "{{ '<|start_header_id|>' + m.role + "
    "'<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
)
_LLAMA3_HEADER = "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
_CHATML = _LOOP + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
_ASKED = "{% if add_generation_prompt %}"
_VICUNA = (
    "{{ bos_token }}" + _LOOP + "{% if m.role == 'system' %}{{ m.content + ' ' }}"
    "{% elif m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
# What Qwen3's does of thoughts, calls and results.
QWEN3 = (
    "{%- if tools %}{{- '<|im_start|>system\n' }}{%- if messages[0].role == 'system' %}"
    "{{- messages[0].content + '\n\n' }}{%- endif %}{%- for tool in tools %}"
    "{{- tool | tojson + '\n' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- set ns = namespace(last=messages|length - 1, open=true) %}{%- for m in messages[::-1] %}"
    "{%- if ns.open and m.role == 'user' and not m.content.startswith('<tool_response>') %}"
    "{%- set ns.open = false %}{%- set ns.last = messages|length - 1 - loop.index0 %}{%- endif %}"
    "{%- endfor %}{%- for m in messages %}{%- set c = m.content %}"
    "{%- if m.role == 'system' and tools %}"
    "{%- elif m.role == 'tool' %}{{- '<|im_start|>user\n<tool_response>\n' + c }}"
    "{{- '\n</tool_response><|im_end|>\n' }}{%- else %}{%- if m.role == 'assistant' %}"
    "{%- set r = m.reasoning_content if m.reasoning_content is string else '' %}"
    "{%- if not r and '</think>' in c %}"
    "{%- set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set c = c.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last and (loop.last or r) %}"
    "{%- set c = '<think>\n' + r.strip('\n') + '\n</think>\n\n' + c.lstrip('\n') %}{%- endif %}"
    "{%- endif %}{{- '<|im_start|>' + m.role + '\n' + c }}{%- for t in m.tool_calls or [] %}"
    '{%- set f = t.function or t %}{{- \'\n<tool_call>\n{"name": "\' + f.name }}'
    '{{- \'", "arguments": \' }}{%- if f.arguments is string %}{{- f.arguments }}{%- else %}'
    "{{- f.arguments | tojson }}{%- endif %}{{- '}\n</tool_call>' }}{%- endfor %}"
    "{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and not enable_thinking %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
# style -> (template, token that ends an answer)
STYLES = {
    "chatml": (_CHATML + _ASKED + "{{ '<|im_start|>assistant\n' }}{% endif %}", "<|im_end|>"),
    "chatml that is never asked": (_CHATML, "<|im_end|>"),
    "chatml, header in the user's slot": (
        _LOOP + "{% if m.role == 'user' %}"
        "{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n<|im_start|>assistant\n' }}"
        "{% elif m.role == 'assistant' %}{{ m.content + '<|im_end|>\n' }}"
        "{% else %}{{ '<|im_start|>system\n' + m.content + '<|im_end|>\n' }}{% endif %}"
        "{% endfor %}",
        "<|im_end|>",
    ),
    "chatml with tags": (
        _LOOP + "{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
        "{% endfor %}" + _ASKED + "{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_end|>",
    ),
    "llama3": (_LLAMA3 + _ASKED + _LLAMA3_HEADER + "{% endif %}", "<|eot_id|>"),
    "llama3, header unasked": (_LLAMA3 + _LLAMA3_HEADER, "<|eot_id|>"),
    "llama2": (
        "{% set sys = '' %}{% if messages[0].role == 'system' %}"
        "{% set sys = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{% set messages = messages[1:] %}{% endif %}"
        + _LOOP
        + "{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}"
        "{{ (sys if loop.first else '') + m.content | trim + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}",
        "</s>",
    ),
    "mistral": (
        _NO_SYSTEM + "{{ bos_token }}" + _LOOP + "{% if m.role == 'user' %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}"
        "{% endfor %}",
        "</s>",
    ),
    "mistral, system with the last question": (
        "{% set sys = '' %}{% if messages[0].role == 'system' %}"
        "{% set sys = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
        "{{ bos_token }}" + _LOOP + "{% if m.role == 'user' %}{{ '[INST] ' }}"
        "{{ (sys if loop.index0 >= messages | length - 2 else '') + m.content + '[/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        "</s>",
    ),
    "zephyr": (
        _LOOP + "{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}",
        "</s>",
    ),
    "vicuna": (_VICUNA + _ASKED + "{{ 'ASSISTANT:' }}{% endif %}", "</s>"),
    "vicuna that is never asked": (_VICUNA, "</s>"),
    "alpaca": (
        "{{ bos_token }}" + _LOOP + "{% if m.role == 'user' %}"
        "{{ '### Instruction:\n' + m.content | trim + '\n\n' }}{% elif m.role == 'assistant' %}"
        "{{ '### Response:\n' + m.content | trim + eos_token + '\n\n' }}"
        "{% else %}{{ m.content + '\n\n' }}{% endif %}{% endfor %}"
        + _ASKED
        + "{{ '### Response:\n' }}{% endif %}",
        "</s>",
    ),
    "gemma": (
        _NO_SYSTEM + "{{ bos_token }}" + _LOOP + "{% set role = 'model' if m.role == 'assistant' "
        "else m.role %}{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}"
        "{% endfor %}" + _ASKED + "{{ '<start_of_turn>model\n' }}{% endif %}",
        "<end_of_turn>",
    ),
    "phi3": (
        _LOOP + "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
        "{% else %}{{ '<|endoftext|>' }}{% endif %}",
        "<|end|>",
    ),
    "a prompt that is not what is written": (
        _CHATML.replace("m.role + '\n'", "m.role + ' \n'")
        + _ASKED
        + "{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_end|>",
    ),
    "a header that is written otherwise than asked with": (
        _CHATML.replace("m.role +", "m.role | upper +")
        + _ASKED
        + "{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_end|>",
    ),
    "an end token of its own for the last answer": (
        _LOOP + "{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{% if m.role == 'assistant' and loop.last %}{{ eos_token }}"
        "{% else %}{{ '<|im_end|>' }}{% endif %}{% endfor %}"
        + _ASKED
        + "{{ '<|im_start|>assistant\n' }}{% endif %}",
        "</s>",
    ),
    "an end token after the last answer only": (
        _LOOP + "{{ '<|' + m.role + '|>\n' + m.content + '\n' }}"
        "{% if m.role == 'assistant' and loop.last %}{{ eos_token }}{% endif %}{% endfor %}"
        + _ASKED
        + "{{ '<|assistant|>\n' }}{% endif %}",
        "</s>",
    ),
    "an end token between turns only": (
        _LOOP + "{{ m.role + ':\n' + m.content }}"
        "{% if not loop.last or add_generation_prompt %}{{ eos_token }}{% endif %}{% endfor %}"
        + _ASKED
        + "{{ 'assistant:\n' }}{% endif %}",
        "</s>",
    ),
    "deepseek-r1": (
        "{{ bos_token }}" + _LOOP + "{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
        "{% elif m.role == 'assistant' %}"
        "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
        + _ASKED
        + "{{ '<|Assistant|><think>\n' }}{% endif %}",
        "</s>",
    ),
    "qwen3": (QWEN3, "<|im_end|>"),
}


def tokenizer_json() -> str:
    """A byte-level BPE of 600 tokens that knows the control tokens of all styles."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=CONTROLS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = "USER: ASSISTANT: [INST] [/INST] ### Instruction:\n ### Response:\n user assistant Yes."
    tokenizer.train_from_iterator([text] * 3, trainer)
    return tokenizer.to_str()


def with_names(ids, tokenizer) -> str:
    """Text of ids, control tokens by their names."""
    names = {tokenizer.control(name): name for name in tokenizer.control_names}
    parts: list = []
    for token in ids:
        if token in names:
            parts.append(names[token])
        elif parts and isinstance(parts[-1], list):
            parts[-1].append(token)
        else:
            parts.append([token])
    return "".join(tokenizer.decode(part) if isinstance(part, list) else part for part in parts)


def learned(ids, mask, tokenizer) -> list[str]:
    """Text of each stretch of tokens with loss."""
    runs: list[list[int]] = []
    for at, (token, is_learned) in enumerate(zip(ids, mask, strict=True)):
        if is_learned:
            if not at or not mask[at - 1]:
                runs.append([])
            runs[-1].append(token)
    return [with_names(run, tokenizer) for run in runs]


def settings(template: str, **more) -> str:
    """The content of a tokenizer_config.json."""
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    return json.dumps({**kind, **SPECIAL, **more})
