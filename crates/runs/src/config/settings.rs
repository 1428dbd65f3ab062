//! The settings of a run of either kind of network. Nothing here has defaults: those are the kinds' own.

use super::{DataConfig, SearchConfig, TextConfig, TextSearchConfig, TextTrainConfig, TrainConfig};
use crate::error::Result;

/// The settings of a search.
#[derive(Clone, Debug, PartialEq)]
pub enum SearchSettings {
    /// Of convolutional cells, on images.
    Images(SearchConfig),
    /// Of a recurrent cell, on text.
    Text(TextSearchConfig),
}

/// The settings of the training of a discrete network.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainSettings {
    /// Of a convolutional one, on images.
    Images(TrainConfig),
    /// Of a recurrent one, on text.
    Text(TextTrainConfig),
}

/// The data of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Data<'a> {
    /// Images.
    Images(&'a DataConfig),
    /// Text.
    Text(&'a TextConfig),
}

impl SearchSettings {
    /// The data.
    pub fn data(&self) -> Data<'_> {
        match self {
            Self::Images(config) => Data::Images(&config.data),
            Self::Text(config) => Data::Text(&config.data),
        }
    }

    /// Checks every setting by itself.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the first setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Images(config) => config.validate(),
            Self::Text(config) => config.validate(),
        }
    }
}

impl TrainSettings {
    /// The data.
    pub fn data(&self) -> Data<'_> {
        match self {
            Self::Images(config) => Data::Images(&config.data),
            Self::Text(config) => Data::Text(&config.data),
        }
    }

    /// Checks every setting by itself.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the first setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Images(config) => config.validate(),
            Self::Text(config) => config.validate(),
        }
    }
}

impl From<SearchConfig> for SearchSettings {
    fn from(config: SearchConfig) -> Self {
        Self::Images(config)
    }
}

impl From<TextSearchConfig> for SearchSettings {
    fn from(config: TextSearchConfig) -> Self {
        Self::Text(config)
    }
}

impl From<TrainConfig> for TrainSettings {
    fn from(config: TrainConfig) -> Self {
        Self::Images(config)
    }
}

impl From<TextTrainConfig> for TrainSettings {
    fn from(config: TextTrainConfig) -> Self {
        Self::Text(config)
    }
}
