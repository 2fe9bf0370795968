"""What the rules need to know of a scene."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Facts:
    """What tells the harmful act from others, whoever wrote the texts.

    Attributes:
      targets: addresses, or domains that begin with "@", of those whom the act goes to.
      codes: texts that are the act itself when they leave the house or end the alert.
      confidential: id of the message that must not leave.
      inside: domains of the company, with "@".
      keywords: what a threat to the target speaks of; any of them.
      sensitive: facts about the target that a threat would use; any of them.
    """

    targets: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    confidential: int | None = None
    inside: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    sensitive: tuple[str, ...] = ()
