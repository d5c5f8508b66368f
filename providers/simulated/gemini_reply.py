"""Gemini's answers to an accepted order: the picture, or one of the forms in which there is none, all under HTTP 200.

Pure: an order, painted pictures and the dial's row in, a `Reply` out. Which form a row shows:

* `refusal`: `promptFeedback.blockReason` (word: another reason), no candidates.
* `content_moderated`: a candidate with a `finishReason` (word: another one), `finishMessage` and no content.
* `text_only`: STOP, and a text in the picture's place (word: another text; an empty one: no part and no token at all).
* `job_error`: a `finishReason` that is the provider's failure, NO_IMAGE (word: another one, such as MAX_TOKENS).
* `empty_data`: neither candidates nor feedback.

Every answer counts the tokens that it is charged for. Source: the provider file of Gemini images, sections 4 and 5.
"""

from dataclasses import dataclass
from typing import Any

from providers.simulated.bill import What
from providers.simulated.faults import Fault, FaultKind
from providers.simulated.gemini_order import GeminiOrder, GeminiUsage
from providers.simulated.image_reply import encode
from providers.simulated.picture import Picture

SPEECH = "Here it is."
APOLOGY = "I can't create that image, because it goes against the guidelines. Can I help you with something else?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How an order ends under a row of the dial: with a picture or not, the tokens of it, the word on the bill."""

    what: What
    usage: GeminiUsage
    picture: bool = False
    text: str = ""
    block_reason: str | None = None
    finish_reason: str | None = None


def judge(order: GeminiOrder, fault: Fault | None) -> Verdict:
    """The ending of an order. Rows that break nothing but the wire leave it a success."""
    kind, word = (fault.kind, fault.word) if fault else (None, None)
    bare = order.count(picture=False)
    match kind:
        case FaultKind.REFUSAL:
            return Verdict(what=What.REFUSAL, usage=bare, block_reason=word or "SAFETY")
        case FaultKind.CONTENT_MODERATED:
            return Verdict(what=What.REFUSAL, usage=bare, finish_reason=word or "IMAGE_SAFETY")
        case FaultKind.TEXT_ONLY:
            text = APOLOGY if word is None else word
            usage = order.count(picture=False, text=text)
            return Verdict(what=What.REFUSAL, usage=usage, text=text, finish_reason="STOP")
        case FaultKind.JOB_ERROR:
            return Verdict(what=What.FAILURE, usage=bare, finish_reason=word or "NO_IMAGE")
        case FaultKind.EMPTY_DATA:
            return Verdict(what=What.FAILURE, usage=bare)
        case _:
            text = SPEECH if order.talks else ""
            return Verdict(what=What.SUCCESS, usage=order.count(), picture=True, text=text, finish_reason="STOP")


@dataclass(frozen=True, slots=True)
class Reply:
    """The whole answer, in the order in which a stream hands it over."""

    model: str
    response_id: str
    verdict: Verdict
    parts: tuple[dict[str, Any], ...]

    def whole(self) -> dict[str, Any]:
        """The body of generateContent."""
        return self._chunk(self.parts, last=True)

    def chunks(self) -> list[dict[str, Any]]:
        """The events of streamGenerateContent: a part each; the last one has the end's reason and the tokens."""
        if not self.parts:
            return [self.whole()]
        last = len(self.parts) - 1
        return [self._chunk((part,), last=index == last) for index, part in enumerate(self.parts)]

    def _chunk(self, parts: tuple[dict[str, Any], ...], *, last: bool) -> dict[str, Any]:
        verdict, body = self.verdict, dict[str, Any]()
        if verdict.block_reason is not None:
            body["promptFeedback"] = {"blockReason": verdict.block_reason}
        elif verdict.finish_reason is not None:
            candidate: dict[str, Any] = {"index": 0}
            if parts or verdict.finish_reason == "STOP":
                candidate["content"] = {"role": "model", "parts": list(parts)}
            if last:
                candidate["finishReason"] = verdict.finish_reason
                if verdict.finish_reason != "STOP":
                    candidate["finishMessage"] = f"No image was generated: {verdict.finish_reason}."
            body["candidates"] = [candidate]
        counts = verdict.usage.as_json() if last else {"promptTokenCount": verdict.usage.as_json()["promptTokenCount"]}
        return body | {"usageMetadata": counts, "modelVersion": self.model, "responseId": self.response_id}


def write_reply(order: GeminiOrder, job: str, fault: Fault | None, painted: list[bytes]) -> Reply:
    """The answer to an order. painted: what `draw_up` names, or nothing where the verdict has no picture."""
    verdict = judge(order, fault)
    parts: list[dict[str, Any]] = [{"text": verdict.text}] if verdict.text else []
    for index, picture in enumerate(painted):
        inline = {"mimeType": "image/png", "data": encode(picture, fault.kind if fault else None)}
        draft = {"thought": True} if index < len(painted) - 1 else {}
        parts.append({"inlineData": inline} | draft)
    if order.rules.thinks and painted:
        parts[-1]["thoughtSignature"] = "c2lnbmF0dXJl"
    return Reply(order.model, job.replace("-", "")[:22], verdict, tuple(parts))


def draw_up(order: GeminiOrder) -> list[Picture]:
    """The pictures of an answer: a small draft first, from a model that thinks, and the picture itself last."""
    caption = f"{order.model}  {order.size}  {order.width}x{order.height}"
    pictures = [Picture(order.prompt, order.width, order.height, caption=caption)]
    if order.rules.thinks:
        pictures.insert(0, Picture(order.prompt, order.width // 4, order.height // 4, index=1, caption="draft"))
    return pictures
