"""Tokenizers, text encoders, VAEs and schedulers of tiny pipelines: random weights, made offline."""

from __future__ import annotations

import diffusers
import tokenizers
import torch
import transformers

CHARACTERS = [chr(code) for code in range(32, 127)]
FLUX_VAE = {"scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False}


def drawn(module, seed):
    """``module`` with random weights, none of them zero or one, so that every path counts; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim >= 2:
                p.copy_(noise * (0.6 / p[0].numel() ** 0.5))
            else:
                p.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return module.eval().requires_grad_(False)


# -- tokenizers


def clip_tokenizer(length=77):
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for character in CHARACTERS:
        vocabulary[character] = len(vocabulary)
        vocabulary[character + "</w>"] = len(vocabulary)
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)


def t5_tokenizer(length=512):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(character, -3.0) for character in CHARACTERS if character != " "]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


def gemma_tokenizer():
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<mask>": 4, "▁": 5}
    for piece in [f"<0x{byte:02X}>" for byte in range(256)] + CHARACTERS:
        vocabulary.setdefault(piece, len(vocabulary))
    tokenizer = transformers.GemmaTokenizer(vocab=vocabulary, merges=[])
    tokenizer._tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return tokenizer


def qwen_tokenizer(**options):
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(["<|endoftext|>", *alphabet])}
    tokenizer = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[], **options)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def beginning_tokenizer(**options):
    """One that puts a token in front of every text."""
    tokenizer = qwen_tokenizer(**options)
    tokenizer._tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|im_start|> $A", pair="<|im_start|> $A $B", special_tokens=[("<|im_start|>", 257)]
    )
    return tokenizer


def bert_tokenizer():
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    for piece in CHARACTERS + [f"##{character}" for character in CHARACTERS]:
        vocabulary.setdefault(piece, len(vocabulary))
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=77)


def chatglm_tokenizer():
    class WithPositions(transformers.Qwen2Tokenizer):
        """Left padding, and the positions of the tokens beside them."""

        def __call__(self, text, **options):
            found = super().__call__(text, **options)
            if "return_tensors" in options:
                found["position_ids"] = (found["attention_mask"].cumsum(1) - 1).clamp(min=0)
            return found

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(["<|endoftext|>", *alphabet])}
    return WithPositions(vocab=vocabulary, merges=[], padding_side="left")


class Processor:
    """Stands for Mistral's processor: a tokenizer with the messages' parts of text in one."""

    def __init__(self):
        self.tokenizer = qwen_tokenizer()

    def apply_chat_template(self, messages, **options):
        texts = [
            [{"role": m["role"], "content": "".join(part["text"] for part in m["content"])} for m in chat]
            for chat in messages
        ]
        return self.tokenizer.apply_chat_template(texts, **options)


# -- text encoders


def clip(projection=False, width=32, positions=77):
    config = transformers.CLIPTextConfig(
        vocab_size=400, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=positions, projection_dim=width, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return drawn(kind(config), 1)


def t5(width=32):
    config = transformers.T5Config(
        vocab_size=200, d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", relative_attention_num_buckets=8,
    )  # fmt: skip
    return drawn(transformers.T5EncoderModel(config), 2)


def t5_multilingual():
    config = transformers.UMT5Config(vocab_size=200, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return drawn(transformers.UMT5EncoderModel(config), 2)


def gemma():
    config = transformers.Gemma2Config(
        vocab_size=500, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=4096,  # Sana's instruction has 1,500 characters
    )  # fmt: skip
    return drawn(transformers.Gemma2Model(config), 4)


def qwen(kind="Qwen3Model", layers=2):
    config = transformers.Qwen3Config(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=2048,
    )  # fmt: skip
    return drawn(getattr(transformers, kind)(config), 5)


def qwen_vl():
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": 300, "rope_theta": 1e6,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        },
        vision_config={"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
        hidden_size=16, vocab_size=300,
    )  # fmt: skip
    return drawn(transformers.Qwen2_5_VLForConditionalGeneration(config), 5)


def mistral():
    text = {
        "model_type": "mistral", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "head_dim": 8,
        "num_hidden_layers": 30, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 2048,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "head_dim": 8, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = transformers.Mistral3Config(text_config=text, vision_config=vision)
    return drawn(transformers.Mistral3ForConditionalGeneration(config), 5)


def llama():
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, attn_implementation="eager",
    )  # fmt: skip
    return drawn(transformers.LlamaForCausalLM(config), 6)


def bert():
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=80,
    )  # fmt: skip
    return drawn(transformers.BertModel(config), 7)


def glm():
    config = transformers.GlmConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=2048, pad_token_id=0,
    )  # fmt: skip
    return drawn(transformers.GlmModel(config), 8)


def chatglm():
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

    config = ChatGLMConfig(
        num_layers=2, padded_vocab_size=300, hidden_size=32, ffn_hidden_size=32, kv_channels=8, num_attention_heads=4,
        seq_length=512, multi_query_attention=True, multi_query_group_num=2, add_qkv_bias=True,
        original_rope=True,
    )  # fmt: skip
    return drawn(ChatGLMModel(config), 9)


# -- VAEs and schedulers


def vae(channels, **config):
    made = diffusers.AutoencoderKL(
        block_out_channels=(8,) * 4, layers_per_block=1, latent_channels=channels, sample_size=64, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        mid_block_add_attention=False, **config,
    )  # fmt: skip
    return drawn(made, 3)


def flow(**config):
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def ddim(schedule, first, last, **config):
    return diffusers.DDIMScheduler(
        beta_schedule=schedule, beta_start=first, beta_end=last, clip_sample=False, timestep_spacing="trailing",
        **config,
    )  # fmt: skip


def dynamic_flow():
    return flow(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0)
