//! Bodies of the OpenAI API as vLLM 0.33 speaks it.
