//! `synthetic-text`: tokens of known entropy, for trying the recurrent pipeline without a download and for knowing how far
//! from the optimum a model is. Each token is, with probability q, a fixed function of the two tokens before it, and
//! else any token, uniformly: one has to remember two steps. It refuses to resemble language.

use super::corpus::{Corpus, Unknown};
use super::tokenizer::Tokenizer;
use crate::Error;
use crate::random::{Key, Purpose};

/// What to generate.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyntheticTextConfig {
    /// Number V of different tokens, 2 to 1024.
    pub vocabulary: usize,
    /// Probability q that a token follows from the two before it; 0 to 1.
    pub predictability: f64,
    /// Training tokens.
    pub train_tokens: usize,
    /// Validation tokens, and as many test tokens.
    pub valid_tokens: usize,
    /// What the text is a function of.
    pub seed: u64,
}

impl Default for SyntheticTextConfig {
    fn default() -> Self {
        Self { vocabulary: 16, predictability: 0.8, train_tokens: 40_000, valid_tokens: 4_000, seed: 0 }
    }
}

/// The source of a synthetic text.
#[derive(Clone, Debug)]
pub struct SyntheticText {
    config: SyntheticTextConfig,
    /// The token that follows from the pair (a, b), at a·V + b.
    successors: Vec<u32>,
}

impl SyntheticText {
    /// The source of a configuration.
    ///
    /// # Errors
    /// [`Error::Setting`] for a value outside its domain.
    pub fn new(config: &SyntheticTextConfig) -> Result<Self, Error> {
        let refuse = |setting, value: String, expected| Err(Error::Setting { setting, value, expected });
        if !(2..=1024).contains(&config.vocabulary) {
            return refuse("synthetic vocabulary", config.vocabulary.to_string(), "2 to 1024");
        }
        if !(0.0..=1.0).contains(&config.predictability) {
            return refuse("predictability", config.predictability.to_string(), "0 to 1");
        }
        let mut random = Key::new(config.seed, Purpose::SYNTHETIC).sample(u64::MAX).generator();
        let pairs = config.vocabulary * config.vocabulary;
        let successors = (0..pairs).map(|_| random.below(config.vocabulary) as u32).collect();
        Ok(Self { config: config.clone(), successors })
    }

    /// The entropy of a token given all before it, in nats: H = −p·ln p − (V − 1)·r·ln r with r = (1 − q)/V and
    /// p = q + r. No model's mean loss is lower in the long run; the lowest perplexity is exp(H).
    pub fn entropy(&self) -> f64 {
        let size = self.config.vocabulary as f64;
        let rest = (1.0 - self.config.predictability) / size;
        let information = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
        information(self.config.predictability + rest) + (size - 1.0) * information(rest)
    }

    /// Training, validation and test text. The vocabulary is `w0`, `w1` and so on, without `<eos>` and `<unk>`.
    ///
    /// # Errors
    /// As [`Tokenizer::of_words`].
    pub fn corpus(&self) -> Result<Corpus, Error> {
        let tokenizer = Tokenizer::of_words((0..self.config.vocabulary).map(|word| format!("w{word}")))?;
        let (train, valid) = (self.config.train_tokens, self.config.valid_tokens);
        let (train, valid, test) = (self.tokens(0, train), self.tokens(1, valid), self.tokens(2, valid));
        Ok(Corpus { tokenizer, train, valid, test, unknown: Unknown::default() })
    }

    fn tokens(&self, split: u64, count: usize) -> Vec<u32> {
        let mut random = Key::new(self.config.seed, Purpose::SYNTHETIC).sample(split).generator();
        let size = self.config.vocabulary;
        let (mut before, mut last) = (random.below(size), random.below(size));
        let next = || {
            let follows = random.chance(self.config.predictability);
            let token = if follows { self.successors[before * size + last] } else { random.below(size) as u32 };
            (before, last) = (last, token as usize);
            token
        };
        std::iter::repeat_with(next).take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_own_model_scores_the_stated_entropy() {
        for (vocabulary, predictability) in [(16, 0.8), (5, 0.3), (2, 0.95)] {
            let valid_tokens = 100_000;
            let config = SyntheticTextConfig { vocabulary, predictability, valid_tokens, ..Default::default() };
            let source = SyntheticText::new(&config).unwrap();
            let tokens = source.corpus().unwrap().valid;
            let rest = (1.0 - predictability) / vocabulary as f64;
            let loss: f64 = tokens
                .windows(3)
                .map(|w| {
                    let follows = source.successors[w[0] as usize * vocabulary + w[1] as usize] == w[2];
                    -(rest + if follows { predictability } else { 0.0 }).ln()
                })
                .sum();
            let mean = loss / (tokens.len() - 2) as f64;
            assert!((mean - source.entropy()).abs() < 0.02, "{mean} measured, {} stated", source.entropy());
        }
    }

    #[test]
    fn the_last_token_alone_tells_less_than_the_last_two() {
        let config = SyntheticTextConfig { valid_tokens: 200_000, ..Default::default() };
        let source = SyntheticText::new(&config).unwrap();
        let mut counts = vec![[1.0; 16]; 16];
        let tokens = source.corpus().unwrap().valid;
        tokens.windows(2).for_each(|w| counts[w[0] as usize][w[1] as usize] += 1.0);
        let loss = |w: &[u32]| -> f64 {
            let row = &counts[w[0] as usize];
            -(row[w[1] as usize] / row.iter().sum::<f64>()).ln()
        };
        let bigram = tokens.windows(2).map(loss).sum::<f64>() / (tokens.len() - 1) as f64;
        assert!(bigram > source.entropy() + 0.5, "bigrams {bigram}, entropy {}", source.entropy());
    }

    #[test]
    fn uniform_text_has_the_entropy_of_its_vocabulary_and_certain_text_none() {
        let entropy = |predictability| {
            SyntheticText::new(&SyntheticTextConfig { predictability, ..Default::default() }).unwrap().entropy()
        };
        assert!((entropy(0.0) - 16_f64.ln()).abs() < 1e-12);
        assert_eq!(entropy(1.0), 0.0);
    }

    #[test]
    fn text_is_a_function_of_the_seed_and_differs_between_splits() {
        let corpus =
            |seed| SyntheticText::new(&SyntheticTextConfig { seed, ..Default::default() }).unwrap().corpus().unwrap();
        assert_eq!(corpus(1).train, corpus(1).train);
        assert_ne!(corpus(1).train, corpus(2).train);
        assert_ne!(corpus(1).valid, corpus(1).test);
        assert_eq!((corpus(1).train.len(), corpus(1).tokenizer.vocabulary_size()), (40_000, 16));
        assert!(SyntheticText::new(&SyntheticTextConfig { vocabulary: 1, ..Default::default() }).is_err());
    }
}
