//! A depthwise-separable layer inside an ordinary candle model, trained for some steps on the CPU. Refuses to need data: the
//! classes are drawn patterns under noise.
//!
//! ```text
//! cargo run --release -p darts-ops --example depthwise_layer
//! ```

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{
    AdamW, Conv2d, Conv2dConfig, Linear, Module, Optimizer, VarBuilder, VarMap, conv2d_no_bias, linear, loss,
};
use darts_ops::layers::{SepUnit, SepUnitConfig};

const CLASSES: usize = 4;
const SIZE: usize = 12;

/// candle's convolution, two of our units, candle's mean and linear layer.
struct Model {
    stem: Conv2d,
    first: SepUnit,
    second: SepUnit,
    head: Linear,
}

impl Model {
    fn new(vb: VarBuilder) -> Result<Self, Box<dyn std::error::Error>> {
        let unit = SepUnitConfig { channels: 8, ..Default::default() };
        Ok(Self {
            stem: conv2d_no_bias(1, 8, 3, Conv2dConfig { padding: 1, ..Default::default() }, vb.pp("stem"))?,
            first: SepUnit::new(unit, vb.pp("first"))?,
            second: SepUnit::new(SepUnitConfig { stride: 2, out_channels: Some(16), ..unit }, vb.pp("second"))?,
            head: linear(16, CLASSES, vb.pp("head"))?,
        })
    }

    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor, Box<dyn std::error::Error>> {
        let x = self.stem.forward(x)?;
        let x = self.second.forward_t(&self.first.forward_t(&x, train)?, train)?;
        Ok(self.head.forward(&x.flatten_from(2)?.mean(D::Minus1)?)?)
    }
}

/// Stripes of four directions, each image with noise of its own.
fn batch(count: usize, device: &Device) -> candle_core::Result<(Tensor, Tensor)> {
    let labels: Vec<u32> = (0..count).map(|n| (n % CLASSES) as u32).collect();
    let mut pixels = Vec::with_capacity(count * SIZE * SIZE);
    for label in &labels {
        for y in 0..SIZE {
            for x in 0..SIZE {
                let along = [x, y, x + y, x + SIZE - y][*label as usize];
                pixels.push(if along % 4 < 2 { 1f32 } else { -1.0 });
            }
        }
    }
    let images = Tensor::from_vec(pixels, (count, 1, SIZE, SIZE), device)?;
    let noise = Tensor::randn(0f32, 1.0, images.shape(), device)?;
    Ok(((images + noise)?, Tensor::from_vec(labels, count, device)?))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::Cpu;
    let variables = VarMap::new();
    let model = Model::new(VarBuilder::from_varmap(&variables, DType::F32, &device))?;
    // Running statistics are variables too, so that they are saved; they have no gradient and the optimizer leaves them alone.
    let mut optimizer = AdamW::new_lr(variables.all_vars(), 5e-3)?;
    for step in 0..=60 {
        let (images, labels) = batch(32, &device)?;
        let loss = loss::cross_entropy(&model.forward_t(&images, true)?, &labels)?;
        optimizer.backward_step(&loss)?;
        if step % 20 == 0 {
            println!("step {step:2}: loss {:.3}", loss.to_scalar::<f32>()?);
        }
    }
    let (images, labels) = batch(400, &device)?;
    let right = model.forward_t(&images, false)?.argmax(D::Minus1)?.eq(&labels)?.to_dtype(DType::F32)?;
    let accuracy = right.mean_all()?.to_scalar::<f32>()?;
    println!("accuracy on fresh images: {:.1} %", 100.0 * accuracy);
    if accuracy < 0.9 {
        return Err("the model did not learn its four patterns".into());
    }
    Ok(())
}
