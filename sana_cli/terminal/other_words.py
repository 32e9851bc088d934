"""Map options of other programs to ours.

From diffusers' scripts, AUTOMATIC1111's web UI, ComfyUI, stable-diffusion.cpp, mflux and ollama.
"""

# Options that ours say with an option and a value, or that resemble another option of ours.
OPTIONS = {
    **dict.fromkeys(("--ar", "--ratio", "--aspect-ratio"), "--aspect"),
    **dict.fromkeys(("--res", "--resolution", "--dimensions"), "--size"),
    **dict.fromkeys(
        ("--batch", "--batch-size", "--images", "--n-iter", "--n-samples", "--samples", "-b", "-c"), "--count"
    ),
    **dict.fromkeys(("--gpu", "--cuda", "--use-gpu"), "--device cuda"),
    **dict.fromkeys(("--cpu", "--no-gpu", "--no-cuda", "--use-cpu"), "--device cpu"),
    "--fp32": "--precision fp32", "--bf16": "--precision bf16", "--fp16": "--precision fp16",
    **dict.fromkeys(("--half", "--dtype", "--torch-dtype", "--data-type"), "--precision"),
    **dict.fromkeys(
        ("--lowvram", "--low-vram", "--medvram", "--low-memory", "--low-ram", "--memory", "--offload",
         "--cpu-offload", "--offload-to-cpu", "--enable-model-cpu-offload", "--sequential-offload",
         "--enable-sequential-cpu-offload", "--vae-on-cpu", "--clip-on-cpu"),
        "--max-memory",
    ),
    **dict.fromkeys(("--tiling", "--vae-tiling", "--enable-vae-tiling"), "--decode exact-tiles"),
    **dict.fromkeys(("--denoise", "--denoising-strength", "--denoising", "--image-strength"), "--strength"),
    **dict.fromkeys(
        ("--ckpt", "--checkpoint", "--model-path", "--model-id", "--diffusion-model",
         "--pretrained-model-name-or-path"), "--model",
    ),
    **dict.fromkeys(("--outdir", "--output-dir", "--save", "--filename"), "--output"),
    **dict.fromkeys(
        ("--prompt-file", "--prompts-file", "--from-file", "--file", "--input", "--batch-file", "-f"), "--prompts"
    ),
    **dict.fromkeys(("--image-path", "--image-paths", "--input-image"), "--image"),
    **dict.fromkeys(("--inpaint", "--mask-image", "--masked-image-path"), "--mask"),
    **dict.fromkeys(("--hires-fix", "--hires", "--hr-scale", "--enable-hr", "--upscale-model"), "--upscale 2"),
    **dict.fromkeys(("--hr-strength", "--hires-strength", "--hires-denoise"), "--upscale-strength"),
    **dict.fromkeys(("--open", "--display", "--view"), "--show"),
    **dict.fromkeys(
        ("--lora-path", "--lora-paths", "--lora-file", "--lora-scale", "--lora-scales", "--lora-weight",
         "--lora-model-dir", "--adapter"), "--lora FILE:SCALE",
    ),
    **dict.fromkeys(
        ("--nsfw", "--no-safety-checker", "--disable-safety-checker", "--no-nsfw"), "--no-safety"
    ),
    **dict.fromkeys(("--output-format", "--extension", "--image-format"), "--format"),
    "-i": "--image", "-s": "--steps or --seed", "-g": "--guidance", "-d": "--device",
}  # fmt: skip

_MEMORY = "sana plans memory by itself; a limit: --max-memory 4GiB"
_KERNELS = "sana chooses the fastest way by itself; `sana doctor` shows it"
# Options that ours have no like of: how it is done here.
SENTENCES = {
    **dict.fromkeys(("--quantize", "--type", "--load-in-4bit", "--load-in-8bit", "--quantization"),
                    "a model is quantized once: sana quantize MODEL, or sana pull MODEL --quantize RECIPE"),
    **dict.fromkeys(("--threads", "-t", "--num-threads", "--n-threads"), "the number of threads is a variable: OMP_NUM_THREADS=4 sana ..."),
    **dict.fromkeys(("--xformers", "--flash-attention", "--diffusion-fa", "--flash-attn", "--compile", "--sdpa",
                     "--opt-sdp-attention", "--attention"), _KERNELS),
    **dict.fromkeys(("--attention-slicing", "--vae-slicing", "--enable-attention-slicing", "--no-half-vae", "--vram"), _MEMORY),
    **dict.fromkeys(("--style", "--styles", "--preset"), "write the style into the prompt"),
    **dict.fromkeys(("--metadata", "--save-metadata"), "pictures always carry their settings: sana info PICTURE.png"),
    **dict.fromkeys(("--shift", "--flow-shift"), "the flow shift is the model's"),
    **dict.fromkeys(("--token", "--hf-token", "--use-auth-token"), "the hub's token is a variable: HF_TOKEN=... sana ..., or `hf auth login`"),
    **dict.fromkeys(("--cache-dir", "--models-dir", "--model-dir"), "the folder of downloads is a variable: HF_HOME=FOLDER sana ..."),
    **dict.fromkeys(("--config", "--config-file", "--settings"), "settings that last: sana config set KEY VALUE; another file of them: SANA_CONFIG=FILE sana ..."),
    **dict.fromkeys(("--version", "-V"), "sana --version"),
    **dict.fromkeys(("--controlnet", "--control-net", "--control-image", "--ip-adapter", "--refiner", "--clip-skip", "--eta",
                     "--textual-inversion", "--embeddings", "--embd-dir", "--vae", "--taesd", "--clip-l", "--t5xxl"),
                    "no Sana model has that"),
}  # fmt: skip
