//! Why training does not start, or does not go on.

use std::path::PathBuf;

use moco_encoder::weights;

use super::{CheckpointError, EvaluationError, RunFolderError};
use crate::{
    data, device,
    moco::{NonFinite, StateError},
    recipe,
};

/// Why training does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Recipe(#[from] recipe::Error),
    #[error("no recipe was given: name one by --recipe or --config, or go on with a run by --resume")]
    NoRecipe,
    #[error("--max-minutes is {0}: it must be above 0")]
    MaxMinutes(f64),
    #[error("--threads is 0: at least one is needed")]
    NoThreads,
    #[error(transparent)]
    Device(#[from] device::Error),
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    #[error(transparent)]
    RunFolder(#[from] RunFolderError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("the checkpoint of step {step} does not fit its recipe")]
    State {
        step: u64,
        #[source]
        source: StateError,
    },
    #[error("{} was started with another recipe: {difference}", run.display())]
    OtherRecipe { run: PathBuf, difference: String },
    #[error("{} is not the folder that {} was started with: its names and sizes give another hash", data.display(), run.display())]
    OtherData { data: PathBuf, run: PathBuf },
    #[error("--init cannot be joined with --resume: the run has its weights already")]
    InitOfResumed,
    #[error("--init {}", path.display())]
    Init {
        path: PathBuf,
        #[source]
        source: weights::Error,
    },
    #[error("--init {} holds another network than the recipe's: {difference}", path.display())]
    InitOther { path: PathBuf, difference: String },
    #[error("{source} (step {step}); its pictures and views are in {}", kept.display())]
    NonFinite {
        step: u64,
        kept: PathBuf,
        #[source]
        source: NonFinite,
    },
    #[error("the weights cannot be saved")]
    Weights(#[from] weights::WeightsError),
    #[error(transparent)]
    Encoder(#[from] weights::Error),
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the settings are at fault, so that nothing was started.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Recipe(_)
            | Self::NoRecipe
            | Self::MaxMinutes(_)
            | Self::NoThreads
            | Self::Device(_)
            | Self::OtherRecipe { .. }
            | Self::OtherData { .. }
            | Self::InitOfResumed
            | Self::InitOther { .. } => true,
            Self::RunFolder(error) => {
                matches!(error, RunFolderError::Holds { .. } | RunFolderError::HoldsNone { .. } | RunFolderError::Recipe { .. })
            }
            Self::Data(error) => matches!(error, data::Error::FewerThanBatch { .. } | data::Error::Settings(_)),
            Self::Evaluation(error) => matches!(
                error,
                EvaluationError::Unlabelled { .. }
                    | EvaluationError::OneClass { .. }
                    | EvaluationError::FewerThanK { .. }
                    | EvaluationError::Data(data::Error::UnknownClass { .. })
            ),
            _ => false,
        }
    }
}
