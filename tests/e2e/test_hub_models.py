"""Models from the hub and original `.pth` files, drawn through a small hub server on the loopback."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

OPTIONS = (
    "--size",
    "64x64",
    "--steps",
    "1",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--seed",
    "1",
)


def serve(hub: Any, repo: str, folder: Path) -> None:
    hub.repos[repo] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def draw(
    sana: Callable[..., Any], hub: Any, tmp_path: Path
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """`sana generate` beside the hub."""

    def run(model: object, *options: str) -> tuple[int, dict[str, Any], str]:
        words = ("--json", "-o", tmp_path / "a.png", "--force", *OPTIONS, *options)
        with hub.here():
            done = sana("generate", "a fox", "-m", model, *words)
        return done.code, json.loads(done.out or "{}"), done.err

    return run


def test_by_hub_id_then_offline(
    hub: Any, draw: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    serve(hub, "some-one/tiny-sana", tiny_model)
    code, document, err = draw("some-one/tiny-sana")
    assert code == 0, err
    assert document["revision"] == hub.commit("some-one/tiny-sana")
    assert document["images"][0]["settings"]["revision"] == document["revision"]
    online = (tmp_path / "a.png").read_bytes()
    hub.requests.clear()
    code, _, err = draw("some-one/tiny-sana", "--offline")
    assert code == 0, err
    assert hub.requests == []
    assert (tmp_path / "a.png").read_bytes() == online


def native_state_dict(state: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """diffusers names -> NVIDIA's, for a plain model: the inverse of the published key table."""
    table = {
        "patch_embed.proj": "x_embedder.proj",
        "caption_projection.linear_1": "y_embedder.y_proj.fc1",
        "caption_projection.linear_2": "y_embedder.y_proj.fc2",
        "time_embed.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_embed.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_embed.linear": "t_block.1",
        "proj_out": "final_layer.linear",
    }
    native = {}
    for ours, theirs in table.items():
        for kind in ("weight", "bias"):
            native[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
    native["attention_y_norm.weight"] = state["caption_norm.weight"]
    native["final_layer.scale_shift_table"] = state["scale_shift_table"]
    for i in range(layers):
        block, old = f"transformer_blocks.{i}", f"blocks.{i}"
        native[f"{old}.scale_shift_table"] = state[f"{block}.scale_shift_table"]
        native[f"{old}.attn.qkv.weight"] = torch.cat(
            [state[f"{block}.attn1.to_{x}.weight"] for x in "qkv"]
        )
        for kind in ("weight", "bias"):
            native[f"{old}.attn.proj.{kind}"] = state[f"{block}.attn1.to_out.0.{kind}"]
            native[f"{old}.cross_attn.q_linear.{kind}"] = state[f"{block}.attn2.to_q.{kind}"]
            native[f"{old}.cross_attn.kv_linear.{kind}"] = torch.cat(
                [state[f"{block}.attn2.to_{x}.{kind}"] for x in "kv"]
            )
            native[f"{old}.cross_attn.proj.{kind}"] = state[f"{block}.attn2.to_out.0.{kind}"]
            native[f"{old}.mlp.inverted_conv.conv.{kind}"] = state[
                f"{block}.ff.conv_inverted.{kind}"
            ]
            native[f"{old}.mlp.depth_conv.conv.{kind}"] = state[f"{block}.ff.conv_depth.{kind}"]
        native[f"{old}.mlp.point_conv.conv.weight"] = state[f"{block}.ff.conv_point.weight"]
    return native


def test_original_file_draws_what_the_folder_draws(
    hub: Any,
    draw: Callable[..., Any],
    reference: Any,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    """A `.pth` of the 0.6B's width takes its other parts from the published repo, and only those."""
    config = {
        **reference.transformer_config(reference.VARIANTS["plain"]),
        "num_attention_heads": 36, "attention_head_dim": 32, "num_layers": 1,
        "num_cross_attention_heads": 16, "cross_attention_head_dim": 72,
        "cross_attention_dim": 1152, "sample_size": 32,
    }  # fmt: skip
    folder = tmp_path / "folder"
    folder.mkdir()
    for part in tiny_model.iterdir():
        if part.name != "transformer":
            (folder / part.name).symlink_to(part)
    reference.lively_transformer(config, 5).save_pretrained(folder / "transformer")
    state = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    extra = {"pos_embed": torch.zeros(1, 1024, 1152), "y_embedder.y_embedding": torch.zeros(2, 2)}
    pth = tmp_path / "Sana.pth"
    torch.save({"state_dict": {**native_state_dict(state, layers=1), **extra}}, pth)

    code, _, err = draw(folder)
    assert code == 0, err
    expected = reference.np.asarray(reference_image(tmp_path / "a.png"))
    serve(hub, "Efficient-Large-Model/Sana_600M_1024px_diffusers", tiny_model)
    code, document, err = draw(pth)
    assert code == 0, err
    assert document["model"] == str(pth)
    assert not any("transformer/" in name for name in hub.downloaded())
    assert (reference.np.asarray(reference_image(tmp_path / "a.png")) == expected).all()


def reference_image(path: Path) -> Any:
    from PIL import Image

    return Image.open(path)


@pytest.mark.slow
def test_weights_that_change_the_file_change_the_picture(
    draw: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    """What the test above relies on."""
    import shutil

    folder = Path(shutil.copytree(tiny_model, tmp_path / "changed"))
    draw(folder)
    before = (tmp_path / "a.png").read_bytes()
    path = folder / "transformer/diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["transformer_blocks.0.attn2.to_k.weight"] *= 3
    save_file(state, path)
    draw(folder)
    assert (tmp_path / "a.png").read_bytes() != before
