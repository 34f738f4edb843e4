//! What an encoder says of itself. Training writes it, export carries it into the ONNX file, serving obeys it:
//! nobody downstream has to know how the network was trained, and nobody can prepare pictures differently.

use serde::{Deserialize, Serialize};

use crate::{architecture::Architecture, head::Head, image::Preprocessing, resnet::ResNet};

/// Format number this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// Key of the manifest, as JSON, in the header metadata of `encoder.safetensors` and in the `metadata_props` of `model.onnx`.
pub const METADATA_KEY: &str = "moco.encoder";

/// Which of the network's two outputs is the embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// The backbone's pooled output: what linear probes and k-NN evaluation use.
    #[default]
    Features,
    /// The output of the projection head, in which the contrastive loss is taken.
    Projection,
}

/// Where the weights come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Name of the recipe, `v2`.
    pub recipe: String,
    /// Name of the data set.
    pub data: String,
    /// SHA-256, in hexadecimal, over the sorted relative names and sizes of its files.
    pub data_hash: String,
    /// Images that were trained on.
    pub images: u64,
    /// Passes over them.
    pub epochs: f64,
    /// Accuracy of k-NN on features, 0 to 1, where labels were at hand.
    pub knn_accuracy: Option<f64>,
    /// Program and version, `moco-train 0.1.0`.
    pub program: String,
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    #[error("the manifest is not valid: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the manifest has format {found}; this build reads up to {FORMAT}: use a newer one")]
    Newer { found: u64 },
    #[error("the manifest states no format number")]
    NoFormat,
    #[error("the manifest is not valid: {0}")]
    Invalid(String),
    #[error("the encoder has no projection head; its output can only be features")]
    NoHead,
}

/// The manifest of an encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    pub backbone: ResNet,
    pub head: Head,
    pub output: Output,
    /// Length of the embedding.
    pub dim: usize,
    /// Whether embeddings have length one.
    pub normalized: bool,
    pub preprocessing: Preprocessing,
    pub provenance: Provenance,
}

impl Manifest {
    /// The manifest of a freshly trained encoder: features of unit length.
    pub fn new(architecture: Architecture, preprocessing: Preprocessing, provenance: Provenance) -> Self {
        let Architecture { backbone, head } = architecture;
        let dim = backbone.feature_dim();
        Self { format: FORMAT, backbone, head, output: Output::Features, dim, normalized: true, preprocessing, provenance }
    }

    pub fn architecture(&self) -> Architecture {
        Architecture { backbone: self.backbone.clone(), head: self.head }
    }

    /// The same encoder with another output.
    ///
    /// # Errors
    /// [`ManifestError::NoHead`] for a projection without a head.
    pub fn with_output(self, output: Output) -> Result<Self, ManifestError> {
        let dim = dim_of(&self.backbone, &self.head, output).ok_or(ManifestError::NoHead)?;
        Ok(Self { output, dim, ..self })
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a manifest holds strings, numbers and lists only")
    }

    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// The format number is looked at first, so that a newer manifest is refused as such and not for a field it added.
    pub fn from_json(json: &str) -> Result<Self, ManifestError> {
        let value: serde_json::Value = serde_json::from_str(json)?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            None => return Err(ManifestError::NoFormat),
            Some(found) if found > u64::from(FORMAT) => return Err(ManifestError::Newer { found }),
            Some(_) => {}
        }
        let manifest: Self = serde_json::from_value(value)?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn validate(&self) -> Result<(), ManifestError> {
        if self.format == 0 || self.format > FORMAT {
            return Err(ManifestError::Invalid(format!("format {} does not exist", self.format)));
        }
        self.architecture().validate().map_err(ManifestError::Invalid)?;
        self.preprocessing.validate().map_err(|error| ManifestError::Invalid(error.to_string()))?;
        let dim = dim_of(&self.backbone, &self.head, self.output).ok_or(ManifestError::NoHead)?;
        if dim != self.dim {
            return Err(ManifestError::Invalid(format!("dim is {}, but the described output has {dim} values", self.dim)));
        }
        Ok(())
    }
}

/// Length of `output`; `None` for the projection of an encoder without a head.
fn dim_of(backbone: &ResNet, head: &Head, output: Output) -> Option<usize> {
    match output {
        Output::Features => Some(backbone.feature_dim()),
        Output::Projection => head.dim(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resnet::{Depth, Stem};

    fn manifest() -> Manifest {
        let architecture =
            Architecture { backbone: ResNet::new(Depth::R18, Stem::Cifar).with_width(4), head: Head::Mlp { hidden: 32, dim: 8 } };
        Manifest::new(architecture, Preprocessing::imagenet(), Provenance { recipe: "cifar".into(), ..Provenance::default() })
    }

    fn edited(edit: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut value: serde_json::Value = serde_json::from_str(&manifest().to_json()).unwrap();
        edit(&mut value);
        value.to_string()
    }

    fn refusal(json: &str) -> String {
        Manifest::from_json(json).unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_comes_back_as_it_was() {
        assert_eq!(Manifest::from_json(&manifest().to_json()).unwrap(), manifest());
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        assert!(refusal(&edited(|m| m["colour"] = "blue".into())).contains("colour"));
        assert!(refusal(&edited(|m| m["backbone"]["groups"] = 32.into())).contains("groups"));
        assert!(refusal(&edited(|m| m["head"]["norm"] = true.into())).contains("norm"));
        assert!(refusal(&edited(|m| m["provenance"]["author"] = "x".into())).contains("author"));
        assert!(refusal(&edited(|m| m["preprocessing"]["gamma"] = 2.into())).contains("gamma"));
    }

    #[test]
    fn a_newer_format_is_refused_as_newer_even_with_fields_of_its_own() {
        let json = edited(|m| {
            m["format"] = 2.into();
            m["tower"] = "text".into();
        });
        assert!(matches!(Manifest::from_json(&json), Err(ManifestError::Newer { found: 2 })));
    }

    #[test]
    fn a_manifest_without_a_format_or_with_format_zero_is_refused() {
        assert!(matches!(Manifest::from_json("{}"), Err(ManifestError::NoFormat)));
        assert!(refusal(&edited(|m| m["format"] = 0.into())).contains("format 0"));
    }

    #[test]
    fn a_dim_that_is_not_the_outputs_is_refused() {
        assert!(refusal(&edited(|m| m["dim"] = 33.into())).contains("dim is 33"));
    }

    #[test]
    fn widths_that_would_exhaust_memory_are_refused() {
        assert!(refusal(&edited(|m| m["backbone"]["width"] = 1_000_000.into())).contains("backbone.width"));
        assert!(refusal(&edited(|m| m["head"]["hidden"] = 0.into())).contains("head.hidden"));
        assert!(refusal(&edited(|m| m["backbone"]["depth"] = 19.into())).contains("depth 19"));
    }

    #[test]
    fn a_projection_needs_a_head() {
        assert_eq!(manifest().with_output(Output::Projection).unwrap().dim, 8);
        let headless = Manifest { head: Head::None {}, ..manifest() };
        assert!(matches!(headless.with_output(Output::Projection), Err(ManifestError::NoHead)));
    }
}
