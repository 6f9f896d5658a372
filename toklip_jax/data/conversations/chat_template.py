"""A `transformers` tokenizer's own chat template, as a template of conversations."""

from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.core.extras import missing_line
from toklip_jax.data.conversations.conversation import ASSISTANT, USER, Conversation
from toklip_jax.data.conversations.templates import Piece


class ChatTemplate:
    """The chat template of a tokenizer of `transformers` (which renders it with jinja2).

    An answer is what the template writes for an assistant's turn after the prompt for it: the text
    and all that follows but white space after its end marker. Turns with `<image>` are passed as
    plain text.
    """

    markers = ()
    has_own_start = True  # the template writes the start token, if the model has one

    def __init__(self, tokenizer: Any):
        """Takes the template of a tokenizer.

        Raises:
            ValueError: it has none.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "expected a tokenizer with a chat template, got one without: name a template, "
                "such as 'qwen2.5'"
            )
        self._tokenizer = tokenizer

    def __repr__(self) -> str:
        return f"ChatTemplate({self._tokenizer.chat_template!r})"

    def pieces(self, conversation: Conversation, is_prompt: bool = False) -> list[Piece]:
        """Returns the pieces of a conversation; see `Template.pieces`.

        Raises:
            ValueError: the template writes earlier turns differently once others follow, as
                Qwen3's does with its thoughts, so that no prompt in it is what the model sees.
        """
        turns = [{"role": turn.role, "content": turn.text} for turn in conversation.turns]
        if is_prompt and (not turns or turns[-1]["role"] != USER):
            raise UserError("expected a prompt that ends with a user turn: leave the answer out")
        whole = self._render(turns, is_prompt)
        pieces, done = [], 0
        for place, turn in enumerate(turns):
            if turn["role"] != ASSISTANT:
                continue
            prompt = self._render(turns[:place], is_prompt=True)
            text = self._render(turns[: place + 1], is_prompt=False)
            if not whole.startswith(text) or not text.startswith(prompt):
                raise UserError(
                    f"expected a chat template that writes a turn alike whatever follows, got "
                    f"another text for turn {place} of {conversation.name or 'a conversation'}: "
                    f"name a template, such as 'qwen3'"
                )
            answer = text[len(prompt) :]
            if answer.rstrip().endswith(turn["content"].rstrip()):
                end = len(prompt) + len(answer)  # no marker follows: its white space is its end
            else:
                end = len(text.rstrip())
            pieces.append(Piece(whole[done : len(prompt)]))
            pieces.append(Piece(whole[len(prompt) : end], is_trained=True))
            done = end
        pieces.append(Piece(whole[done:]))
        return [piece for piece in pieces if piece.text]

    def _render(self, turns, is_prompt):
        try:
            return self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=is_prompt
            )
        except ImportError as error:
            raise UserError(missing_line("jinja2")) from error
        except Exception as error:  # jinja's, or what the template raises
            raise UserError(
                f"expected turns that the tokenizer's chat template takes, got: "
                f"{(str(error) or type(error).__name__).splitlines()[0]}: name another template"
            ) from error
