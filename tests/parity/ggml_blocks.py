"""Makes tests/fixtures/ggml/blocks.json: two blocks of each type, arbitrary bytes with small scales, and what the gguf package reads in them.

    python3 tests/parity/ggml_blocks.py      needs gguf 0.19 and numpy
"""
import json
import pathlib

import numpy as np
from gguf.quants import dequantize
from gguf.constants import GGMLQuantizationType as T

rng = np.random.default_rng(5)
out = []
for name,t,n,bytes_,halves in [("Q5_0",T.Q5_0,32,22,[0]),("Q5_1",T.Q5_1,32,24,[0,2]),("Q4_K",T.Q4_K,256,144,[0,2]),("Q5_K",T.Q5_K,256,176,[0,2]),("Q6_K",T.Q6_K,256,210,[208])]:
    blocks=2
    raw=rng.integers(0,256,(1,blocks*bytes_),dtype=np.uint8)
    for b in range(blocks):
        for h in halves:
            v=np.array([rng.uniform(-0.02,0.02)],dtype=np.float16).view(np.uint8)
            raw[0,b*bytes_+h:b*bytes_+h+2]=v
    vals=dequantize(raw,t).astype(np.float32).ravel()
    assert len(vals)==blocks*n
    out.append({"dtype":name,"stored":raw.tobytes().hex(),"bits":vals.view(np.uint32).tolist()})
path = pathlib.Path(__file__).resolve().parents[1] / "fixtures/ggml/blocks.json"
path.write_text("[\n" + ",\n".join(json.dumps(o, separators=(",", ":")) for o in out) + "\n]\n", encoding="utf-8")
