"""The latent perceptual loss in somebody's own training step: the three lines are marked.

Everything else is the usual fine-tuning loop on diffusers models; here small random ones, so that it runs anywhere.
"""

import diffusers
import torch
from torch.nn import functional as F

from lpl import LatentPerceptualLoss  # 1

blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
vae = diffusers.AutoencoderKL(block_out_channels=(32, 32, 64, 64), latent_channels=4, **blocks)
unet = diffusers.UNet2DModel(in_channels=4, out_channels=4, block_out_channels=(32, 64), norm_num_groups=8,
                             down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
scheduler = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4)
perceptual = LatentPerceptualLoss(vae)  # 2

for step in range(3):
    images = torch.rand(4, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        z0 = vae.encode(images).latent_dist.sample() * vae.config.scaling_factor
    noise = torch.randn_like(z0)
    timesteps = torch.randint(scheduler.config.num_train_timesteps, (len(z0),))
    z_t = scheduler.add_noise(z0, noise, timesteps)
    output = unet(z_t, timesteps).sample
    mse = F.mse_loss(output, noise)

    z0_hat, sigma = perceptual.predicted_latent(scheduler, output, z_t, timesteps)  # 3
    loss = mse + 0.1 * perceptual(z0_hat, z0, sigma)

    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: mse {mse.item():.3f}, with LPL {loss.item():.3f}")
