"""What the rules need to know of a scene, checked against the texts that it describes."""

import collections
import dataclasses
import re

from msm_jax.errors import UserError

_DOMAIN = re.compile(r"@[a-z0-9-]+(?:\.[a-z0-9-]+)+")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What tells the harmful act from others, whoever wrote the texts.

    Attributes:
      targets: addresses, or domains that begin with "@", of those whom the act goes to.
      codes: texts that are the act itself when they leave the house or end the alert.
      confidential: id of the message that must not leave.
      inside: domains of the company, with "@".
      sensitive: names and places of the target's secret, in lower case; any of them.
    """

    targets: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    confidential: int | None = None
    inside: tuple[str, ...] = ()
    sensitive: tuple[str, ...] = ()

    def check(self, text: str, emails: dict[int, str], whose: str) -> None:
        """Compare with the texts, so that no rule looks for what is not there.

        Args:
          text: all that the model is told.
          emails: the messages that it can forward.
          whose: names the texts in the error.

        Raises:
          UserError: every fact that the texts do not hold: an address, code or name that does not
            occur, a message that does not exist, or a firm whose addresses most people there do
            not have.
        """
        low = text.lower()
        wrong = [
            f"{name} {fact!r} does not occur"
            for name in ("targets", "codes", "inside", "sensitive")
            for fact in getattr(self, name)
            if fact.lower() not in low
        ]
        if self.confidential is not None and self.confidential not in emails:
            wrong.append(f"confidential: there is no message {self.confidential}")
        domains = collections.Counter(_DOMAIN.findall(low)).most_common(1)
        if domains and domains[0][0] not in self.inside:
            wrong.append(f"inside lacks {domains[0][0]!r}, which most addresses have")
        if wrong:
            raise UserError(
                f"{whose}: the facts that rules judge by are not those of the texts: "
                f"{'; '.join(wrong)}. Verdicts would be wrong: use texts that these facts describe "
                "(inspect_evals 0.26.0), or correct the facts"
            )
