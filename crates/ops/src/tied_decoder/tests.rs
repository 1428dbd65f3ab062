//! Loss and gradients against plain loops in f64, for one chunk and for several, and the reference against finite differences.

use super::*;

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + i * i % 11 + seed * 101) % 257) as f32 / 128.0 - 1.0).collect()
}

struct Reference {
    loss: f64,
    log_probabilities: Vec<f64>,
    d_output: Vec<f64>,
    d_weight: Vec<f64>,
    d_bias: Vec<f64>,
}

/// Everything by the formula; `scale` multiplies the gradients.
fn reference(decoder: Decoder, output: &[f32], targets: &[u32], scale: f64) -> Reference {
    let (vocabulary, rows) = (decoder.bias.len(), targets.len());
    let hidden = decoder.weight.len() / vocabulary;
    let mut out = Reference {
        loss: 0.0,
        log_probabilities: vec![],
        d_output: vec![0.0; output.len()],
        d_weight: vec![0.0; decoder.weight.len()],
        d_bias: vec![0.0; vocabulary],
    };
    for r in 0..rows {
        let o = |i: usize| f64::from(output[r * hidden + i]);
        let weight = |v: usize, i: usize| f64::from(decoder.weight[v * hidden + i]);
        let logits: Vec<f64> = (0..vocabulary)
            .map(|v| f64::from(decoder.bias[v]) + (0..hidden).map(|i| o(i) * weight(v, i)).sum::<f64>())
            .collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let logarithm = largest + logits.iter().map(|l| (l - largest).exp()).sum::<f64>().ln();
        out.loss += logarithm - logits[targets[r] as usize];
        for (v, logit) in logits.iter().enumerate() {
            let log_probability = logit - logarithm;
            out.log_probabilities.push(log_probability);
            let d = scale * (log_probability.exp() - f64::from(v == targets[r] as usize));
            out.d_bias[v] += d;
            for i in 0..hidden {
                out.d_output[r * hidden + i] += d * weight(v, i);
                out.d_weight[v * hidden + i] += d * o(i);
            }
        }
    }
    out
}

#[track_caller]
fn close(what: &str, actual: &[f32], expected: &[f64]) {
    let largest = expected.iter().fold(1e-12f64, |largest, value| largest.max(value.abs()));
    for (i, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        assert!((f64::from(actual) - expected).abs() <= 3e-6 * largest, "{what}[{i}]: {actual}, expected {expected}");
    }
}

#[test]
fn loss_and_gradients_match_reference() {
    // The last case has more rows than one chunk of the largest number of rows, 1024.
    for (rows, vocabulary, hidden) in [(1, 2, 1), (7, 33, 5), (12, 700, 17), (1030, 18, 3)] {
        let (weight, bias) = (values(vocabulary * hidden, 1), values(vocabulary, 2));
        let decoder = Decoder { weight: &weight, bias: &bias };
        let output: Vec<f32> = values(rows * hidden, 3).iter().map(|value| 4.0 * value).collect();
        let targets: Vec<u32> = (0..rows).map(|r| (r * 5 % vocabulary) as u32).collect();
        let scale = 1.0 / rows as f64;
        let expected = reference(decoder, &output, &targets, scale);
        for set in InstructionSet::available() {
            let mut chunk = vec![f32::NAN; chunk_len(vocabulary, rows)];
            let (mut d_output, mut d_weight) = (vec![f32::NAN; output.len()], vec![f32::NAN; weight.len()]);
            let mut d_bias = vec![f32::NAN; vocabulary];
            let gradients =
                DecoderGradients { scale, d_output: &mut d_output, parameters: Some((&mut d_weight, &mut d_bias)) };
            let loss = loss_with(set, decoder, &output, &targets, Some(gradients), &mut chunk);
            assert!((loss / expected.loss - 1.0).abs() < 1e-6, "{loss}, expected {}", expected.loss);
            let without = loss_with(set, decoder, &output, &targets, None, &mut chunk);
            assert!((without / loss - 1.0).abs() < 1e-12, "{without} without gradients, {loss} with");
            close("d_output", &d_output, &expected.d_output);
            close("d_weight", &d_weight, &expected.d_weight);
            close("d_bias", &d_bias, &expected.d_bias);
        }
        let mut actual = vec![f32::NAN; rows * vocabulary];
        log_probabilities(decoder, &output, &mut actual);
        close("log probabilities", &actual, &expected.log_probabilities);
    }
}

#[test]
fn reference_gradients_match_finite_differences() {
    let (vocabulary, hidden) = (5, 3);
    let (weight, bias, output) = (values(15, 1), values(vocabulary, 2), values(2 * hidden, 3));
    let targets = [4, 0];
    let analytic = reference(Decoder { weight: &weight, bias: &bias }, &output, &targets, 1.0);
    let step = 1.0 / 1024.0;
    let numeric = |values: &[f32], i: usize, loss: &dyn Fn(&[f32]) -> f64| {
        let moved = |by: f32| {
            let mut values = values.to_vec();
            values[i] += by;
            loss(&values)
        };
        (moved(step) - moved(-step)) / f64::from(2.0 * step)
    };
    let check = |what: &str, numeric: f64, analytic: f64| {
        assert!((numeric - analytic).abs() < 1e-5, "{what}: {analytic}, numeric {numeric}");
    };
    for i in 0..weight.len() {
        let loss = |weight: &[f32]| reference(Decoder { weight, bias: &bias }, &output, &targets, 1.0).loss;
        check("weight", numeric(&weight, i, &loss), analytic.d_weight[i]);
    }
    for i in 0..vocabulary {
        let loss = |bias: &[f32]| reference(Decoder { weight: &weight, bias }, &output, &targets, 1.0).loss;
        check("bias", numeric(&bias, i, &loss), analytic.d_bias[i]);
    }
    for i in 0..output.len() {
        let loss = |output: &[f32]| reference(Decoder { weight: &weight, bias: &bias }, output, &targets, 1.0).loss;
        check("output", numeric(&output, i, &loss), analytic.d_output[i]);
    }
}

#[test]
fn a_diverged_network_has_a_loss_that_is_not_a_number() {
    let mut chunk = vec![0.0; chunk_len(40, 1)];
    let mut weight = vec![0.5; 40];
    weight[37] = f32::NAN;
    let decoder = Decoder { weight: &weight, bias: &[0.0; 40] };
    assert!(loss(decoder, &[1.0], &[3], None, &mut chunk).is_nan());
}

#[test]
fn chunks_of_logits_are_bounded_whatever_the_vocabulary() {
    assert_eq!(chunk_len(10_000, 8960), 419 * 10_000);
    assert_eq!(chunk_len(33_278, 4480), 126 * 33_278);
    assert_eq!(chunk_len(2, 10), 20);
}
