//! What the factors of a new adapter are.

/// `init_lora_weights`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitLoraWeights {
    /// `true`: A uniform within ±1/sqrt(in) (Kaiming, a = sqrt 5), B zero.
    #[default]
    Kaiming,
    /// `false`: B uniform too, within ±1/sqrt(r), so that the model starts changed.
    Uniform,
    /// A normal with standard deviation 1/r, B zero.
    Gaussian,
    /// The largest singular vectors of the weight, which is left without them (Meng et al., 2024,
    /// arXiv:2404.02948).
    Pissa,
    /// About the same, by so many iterations on random vectors.
    PissaNiter(usize),
    /// The beginnings of Q and R of the weight, which is left without them (Büyükakyüz, 2024,
    /// arXiv:2406.01775).
    Olora,
}

impl InitLoraWeights {
    /// The value of this name, or what was expected.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name.to_lowercase().as_str() {
            "gaussian" => Ok(Self::Gaussian),
            "pissa" => Ok(Self::Pissa),
            "olora" => Ok(Self::Olora),
            other => match other.strip_prefix("pissa_niter_").map(str::parse) {
                Some(Ok(count)) => Ok(Self::PissaNiter(count)),
                _ => {
                    Err("true, false, \"gaussian\", \"pissa\", \"pissa_niter_16\" or \"olora\""
                        .into())
                }
            },
        }
    }

    /// As JSON and TOML have it.
    pub fn text(self) -> String {
        match self {
            Self::Kaiming => "true".into(),
            Self::Uniform => "false".into(),
            Self::Gaussian => "\"gaussian\"".into(),
            Self::Pissa => "\"pissa\"".into(),
            Self::PissaNiter(count) => format!("\"pissa_niter_{count}\""),
            Self::Olora => "\"olora\"".into(),
        }
    }

    /// Whether the base's weights are left without what the factors begin with.
    pub fn takes_from_base(self) -> bool {
        matches!(self, Self::Pissa | Self::PissaNiter(_) | Self::Olora)
    }
}
