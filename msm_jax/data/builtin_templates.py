"""The built-in chat formats as Jinja, to be exported with the weights that were trained on them.

transformers and vLLM render a template where we call `CHAT_FORMATS[name].write`; a test holds both
to the same text.
"""

from msm_jax.data.chat import LLAMA31_SYSTEM, QWEN25_SYSTEM

_PROMPT = "{{% if add_generation_prompt %}}{{{{ '{}' }}}}{{% endif %}}"
_LOOP = "{%% for message in messages %%}%s{%% endfor %%}"

_CHATML = _LOOP % (
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
)
_CHATML_PROMPT = _PROMPT.format("<|im_start|>assistant\\n")
_NO_SYSTEM = "{% if not messages or messages[0]['role'] != 'system' %}"

_QWEN25 = (
    _NO_SYSTEM + "{{ '<|im_start|>system\\n" + QWEN25_SYSTEM + "<|im_end|>\\n' }}{% endif %}"
) + _CHATML

# `last` is the place of the last question: thoughts before it are dropped.
_QWEN3 = (
    "{% set place = namespace(last=messages|length - 1) %}"
    + _LOOP % "{% if message['role'] == 'user' %}{% set place.last = loop.index0 %}{% endif %}"
    + _LOOP
    % (
        "{% set answer = message['content'] %}"
        "{% if message['role'] == 'assistant' %}"
        "{% set thought = '' %}"
        "{% if '</think>' in answer %}"
        "{% set parts = answer.split('</think>', 1) %}"
        "{% set thought = parts[0].split('<think>')[-1] %}"
        "{% set answer = parts[1].lstrip('\\n') %}"
        "{% endif %}"
        "{% if message['reasoning_content'] is string %}"
        "{% set thought = message['reasoning_content'] %}"
        "{% endif %}"
        "{% set thought = thought.strip('\\n') %}"
        "{% if loop.index0 > place.last and (thought or loop.last) %}"
        "{% set answer = '<think>\\n' + thought + '\\n</think>\\n\\n' + answer.lstrip('\\n') %}"
        "{% endif %}"
        "{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + answer + '<|im_end|>\\n' }}"
    )
)

_LLAMA_PART = "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
_LLAMA_TURN = "{{ " + _LLAMA_PART + " + message['content'] | trim + '<|eot_id|>' }}"
_LLAMA_PROMPT = _PROMPT.format("<|start_header_id|>assistant<|end_header_id|>\\n\\n")
_LLAMA31 = (
    "{% set first = messages[0]['content'] | trim "
    "if messages and messages[0]['role'] == 'system' else '' %}"
    "{{ '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\\n\\n"
    + LLAMA31_SYSTEM.replace("\n", "\\n")
    + "' + first + '<|eot_id|>' }}"
    + _LOOP % ("{% if loop.index0 or message['role'] != 'system' %}" + _LLAMA_TURN + "{% endif %}")
)

BUILTIN_TEMPLATES = {
    "compact": _LOOP % "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    + _PROMPT.format("<|assistant|>"),
    "chatml": _CHATML + _CHATML_PROMPT,
    "qwen2.5": _QWEN25 + _CHATML_PROMPT,
    "qwen3": _QWEN3 + _CHATML_PROMPT,
    "qwen3-no-thinking": _QWEN3
    + _PROMPT.format("<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n"),
    "llama3": "{{ '<|begin_of_text|>' }}" + _LOOP % _LLAMA_TURN + _LLAMA_PROMPT,
    "llama3.1": _LLAMA31 + _LLAMA_PROMPT,
}
