"""A model that says what it is told to: tests/fixtures/models/scripted. One command, seconds:

    pip install -r tests/parity/requirements.txt && python tests/parity/scripted.py

One layer whose output projections are zero leaves the residual stream as it came: the embedding (one-hot) of the last token. The
head then holds one row entry per transition, so greedy decoding walks the table NEXT and nothing else, whatever stood before.
Tokens are the 256 bytes and a few special ones, without merges. A prompt's last byte chooses the chain, in chat as well (the
template ends with the last message's text and adds nothing):

    ">"      x\\nUser: y, end          a stop string over token borders
    "E"      a🚂b, end               a character of four tokens
    "Q"      q, a lone 0xC3, (t, end  bytes that are no UTF-8
    "0".."9" the next digit, for ever
    "z"      z, for ever
    others   end at once

Values are exact in Q4_0, so the file stays small. golden.json is what transformers makes of it.
"""
import shutil

import gguf
import golden
import torch
from tiny import OUT, write_gguf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIALS = ["<|begin|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
WIDTH = 320                                                   # vocabulary of 262, padded to whole quantisation blocks
CHAINS = [b">x\nUser: y", "Ea🚂b".encode(), b"Qq\xc3(t"]
LOOPS = [b"0123456789", b"z"]


def make_tokenizer():
    alphabet = {}                                             # byte -> the character that byte-level BPE writes for it
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    for byte in range(256):
        alphabet[byte] = chr(byte) if byte in visible else chr(256 + len([b for b in range(byte) if b not in visible]))
    vocab = {alphabet[b]: b for b in range(256)}
    tk = Tokenizer(models.BPE(vocab={**vocab, **{s: 256 + i for i, s in enumerate(SPECIALS)}}, merges=[]))
    tk.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tk.decoder = decoders.ByteLevel()
    tk.add_special_tokens(SPECIALS)
    return PreTrainedTokenizerFast(tokenizer_object=tk, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|pad|>",
                                   clean_up_tokenization_spaces=False)


def transitions(end):
    table = {token: end for token in range(256 + len(SPECIALS))}
    for chain in CHAINS:
        table.update(zip(chain, [*chain[1:], end]))
    for loop in LOOPS:
        table.update(zip(loop, [*loop[1:], loop[0]]))
    return table


def main():
    tokenizer = make_tokenizer()
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=WIDTH, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=32,
        max_position_embeddings=2048, rms_norm_eps=1e-6, bos_token_id=256, eos_token_id=257, pad_token_id=258, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 if parameter.dim() == 1 else 0.0)
        model.model.embed_tokens.weight.copy_(torch.eye(WIDTH))
        for token, following in transitions(tokenizer.eos_token_id).items():
            model.lm_head.weight[following, token] = 10.0
    # The file has a row for each padding token too: names that no text contains.
    for i in range(WIDTH - len(tokenizer)):
        tokenizer.add_tokens([f"<|unused{i}|>"], special_tokens=True)
    folder = OUT / "scripted"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_gguf(folder / "model.gguf", model, tokenizer, gguf.GGMLQuantizationType.Q4_0, TEMPLATE, name="scripted")
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32).eval()
    prompts = [(text, tokenizer(text, add_special_tokens=False).input_ids) for text in [">", "<|user|>hello>", "E", "Q", "7", "z", "?"]]
    cases, rejected = golden.collect(read, read, tokenizer, prompts, len(prompts), 24, [tokenizer.eos_token_id])
    for case in cases:
        del case["top5"]
        print(repr(case["prompt"]), "->", repr(case["text"]), case["output_ids"][-1] == tokenizer.eos_token_id, case["min_gap"])
    golden.write(folder / "golden.json", rejected_prompts=rejected, cases=cases)
    print(f"{(folder / 'model.gguf').stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
