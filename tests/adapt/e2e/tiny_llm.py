"""A language model of a few kilobytes that answers both steps, made without training.

Its next token depends on the last one alone: one-hot embeddings, a layer that adds nothing, and a head that knows the
successor of each token. The chat template ends a prompt with a token for the step and the document; its successor
is the whole answer, and the successor of every answer is the end.
"""

from __future__ import annotations

import json
from pathlib import Path

CONFIGURATION = {"character": "Baker", "type": "fact", "difficulty": "expert", "gives_orders": False}
BREAD = {"query": "why does wild yeast make dough rise"}
SHIP = {"query": "what holds a vessel on its course"}

ANSWERS = {"<choose>": CONFIGURATION, "<bread>": BREAD, "<ship>": SHIP}
END, UNKNOWN = "<end>", "<unknown>"

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }}\n{% endfor %}"
    "{% if 'gives_orders' in messages[0]['content'] %}<choose>"
    "{% elif 'yeast' in messages[-1]['content'] %}<bread>{% else %}<ship>{% endif %}"
)
WIDTH = 16


def make_tiny_llm(folder: Path) -> Path:
    """Writes the checkpoint: safetensors, tokenizer and chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    written = [json.dumps(answer) for answer in ANSWERS.values()]
    tokens = [UNKNOWN, END, *ANSWERS, *written]
    ids = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([UNKNOWN, END, *ANSWERS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
        "eos_token": END,
        "pad_token": END,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokens),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=ids[END],
            pad_token_id=ids[END],
        )
    )
    successors = {ids[step]: ids[answer] for step, answer in zip(ANSWERS, written, strict=True)}
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(WIDTH)[: len(tokens)])
        model.lm_head.weight.zero_()
        for token in range(len(tokens)):
            model.lm_head.weight[successors.get(token, ids[END]), token] = 10.0
    model.save_pretrained(folder)
    return folder
