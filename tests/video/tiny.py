"""A tiny SD 1.5 + AnimateDiff + ControlNet + IP-Adapter stack with random weights: in memory, and as a mirror of files.

Output layers that diffusers initialises with zeros are drawn anew: else depth and time would have no effect, and tests of
either would pass for nothing.
"""

import json

import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    MotionAdapter,
    UNet2DConditionModel,
)
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

SIDE = 64
CHANNELS, WIDTH = (32, 64), 32
UNET = {
    "sample_size": SIDE // 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": CHANNELS,
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def vocabulary():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(code) for code in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    return {
        token: index
        for index, token in enumerate(
            [*characters, *(character + "</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
        )
    }


def modules(*, controlnets=1, plus=True, seed=0):
    """Everything an `AnimateDiffControlNetPipeline` is made of, and an IP-Adapter's state in h94's layout."""
    torch.manual_seed(seed)
    words = vocabulary()
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=WIDTH,
        bos_token_id=words["<|startoftext|>"],
        eos_token_id=words["<|endoftext|>"],
        pad_token_id=words["<|endoftext|>"],
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    unet = UNet2DConditionModel(**UNET).eval()
    nets = []
    for index in range(controlnets):
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 16)).eval()
        generator = torch.Generator().manual_seed(index + 1)
        for layer in [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]:
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * 0.3
        nets.append(net)
    adapter = MotionAdapter(
        block_out_channels=CHANNELS,
        motion_layers_per_block=2,
        motion_norm_num_groups=8,
        motion_num_attention_heads=8,
        motion_mid_block_layers_per_block=1,
        motion_max_seq_length=32,
        use_motion_mid_block=True,
    ).eval()
    for name, parameter in adapter.named_parameters():
        if "proj_out" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    vae = AutoencoderKL(
        latent_channels=4,
        sample_size=SIDE,
        block_out_channels=(16,) * 4,
        norm_num_groups=8,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
    ).eval()
    return {
        "vae": vae,
        "text_encoder": CLIPTextModel(text).eval(),
        "tokenizer": CLIPTokenizer(vocab=words, merges=[], model_max_length=77),
        "unet": unet,
        "motion_adapter": adapter,
        "controlnet": nets if controlnets > 1 else nets[0],
        "image_encoder": CLIPVisionModelWithProjection(vision).eval(),
    }, ip_state(unet, plus)


def pipeline(*, controlnets=1, plus=True, seed=0):
    parts, state = modules(controlnets=controlnets, plus=plus, seed=seed)
    pipe = AnimateDiffControlNetPipeline(
        **parts,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="linear",
            clip_sample=False,
            timestep_spacing="linspace",
            steps_offset=1,
        ),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    )
    pipe.unet.eval()
    if plus is not None:
        pipe.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None)
        pipe.set_ip_adapter_scale(0.8)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ip_state(unet, plus, *, encoder_width=32, tokens=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    width = unet.config.cross_attention_dim

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.2

    # diffusers counts layers as the original does: attn1 takes a number too.
    layers, number = {}, 1
    for name in unet.attn_processors:
        if name.endswith("attn1.processor") or "motion_modules" in name:
            continue
        sizes = unet.config.block_out_channels
        block = sizes[::-1] if name.startswith("up") else sizes
        side = sizes[-1] if name.startswith("mid") else block[int(name.split(".")[1])]
        layers[f"{number}.to_k_ip.weight"], layers[f"{number}.to_v_ip.weight"] = (
            random(side, width),
            random(side, width),
        )
        number += 2
    if not plus:
        projection = {
            "proj.weight": random(4 * width, encoder_width),
            "proj.bias": random(4 * width),
            "norm.weight": torch.ones(width),
            "norm.bias": torch.zeros(width),
        }
        return {"image_proj": projection, "ip_adapter": layers}
    reference = IPAdapterPlusImageProjection(
        embed_dims=encoder_width, output_dims=width, hidden_dims=64, dim_head=64, heads=1, num_queries=tokens, depth=4
    ).state_dict()
    projection = {}
    for key, value in reference.items():
        if ".attn.to_k." in key:
            both = torch.cat([value, reference[key.replace("to_k", "to_v")]])
            projection[key.replace(".attn.to_k.", ".0.to_kv.")] = both
        elif ".attn.to_v." not in key:
            name = (
                key.replace(".ln0.", ".0.norm1.").replace(".ln1.", ".0.norm2.").replace(".attn.to_out.0.", ".0.to_out.")
            )
            name = name.replace(".attn.to_q.", ".0.to_q.").replace(".ff.0.", ".1.0.")
            projection[name.replace(".ff.1.net.0.proj.", ".1.1.").replace(".ff.1.net.2.", ".1.3.")] = value
    return {"image_proj": projection, "ip_adapter": layers}


def original_motion_state(adapter):
    """A motion adapter's weights under the names of the original checkpoint."""
    state = {}
    for key, value in adapter.state_dict().items():
        if key.endswith("pos_embed.pe"):
            continue
        name = key.replace(".norm1.", ".norms.0.").replace(".norm2.", ".norms.1.").replace(".norm3.", ".ff_norm.")
        name = name.replace(".attn1.", ".attention_blocks.0.").replace(".attn2.", ".attention_blocks.1.")
        head, _, tail = name.partition("motion_modules.")
        number, _, rest = tail.partition(".")
        state[f"{head}motion_modules.{number}.temporal_transformer.{rest}"] = value
    return state


def write_mirror(root, *, plus=True, seed=0):
    """The tiny stack as files that cards name, for `GAPRAY_MODELS`."""
    parts, state = modules(plus=plus, seed=seed)
    base = root / "stable-diffusion-v1-5"
    parts["unet"].save_pretrained(base / "unet")
    parts["vae"].save_pretrained(base / "vae")
    parts["text_encoder"].save_pretrained(base / "text_encoder")
    (base / "tokenizer").mkdir()
    (base / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary()))
    (base / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    parts["controlnet"].save_pretrained(root / "controlnet-depth-sd15")
    (root / "mm-sd-v15-v2").mkdir()
    torch.save({"state_dict": original_motion_state(parts["motion_adapter"])}, root / "mm-sd-v15-v2/mm_sd_v15_v2.ckpt")
    card = root / ("ip-adapter-plus-sd15" if plus else "ip-adapter-sd15")
    parts["image_encoder"].save_pretrained(card / "image_encoder")
    flat = {f"{group}.{key}": value.contiguous() for group, inner in state.items() for key, value in inner.items()}
    save_file(flat, card / ("ip-adapter-plus_sd15.safetensors" if plus else "ip-adapter_sd15.safetensors"))
    return root
