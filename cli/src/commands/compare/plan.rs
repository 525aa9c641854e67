//! Which runs a comparison consists of, and which of them are there.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use trainer::{RunState, TrainConfig, list_checkpoints, newest_checkpoint};

use super::{check_name, folder};
use crate::args::CompareArgs;

/// A comparison as its file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// Seeds that every variant runs with, by which differences are paired.
    #[serde(default)]
    seeds: Vec<u64>,
    /// Runs at once; threads are shared between them.
    #[serde(default = "one")]
    pub(super) jobs: usize,
    /// A configuration that all start from, beside this file.
    config: Option<PathBuf>,
    /// `key=value` settings of all.
    #[serde(default)]
    settings: Vec<String>,
    /// What is compared; differences are to the first.
    variants: Vec<Variant>,
}

/// Settings under a name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    name: String,
    #[serde(default)]
    settings: Vec<String>,
}

/// One run.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) variant: usize,
    pub(super) name: String,
    pub(super) seed: u64,
    pub(super) folder: PathBuf,
    pub(super) config: Option<PathBuf>,
    pub(super) settings: Vec<String>,
    pub(super) steps: u64,
    /// Whether it has ended.
    pub(super) is_done: bool,
}

fn one() -> usize {
    1
}

impl Plan {
    /// Reads the file, and puts the command line's settings above it.
    pub(super) fn load(args: &CompareArgs) -> Result<Self> {
        let place = || args.config.display().to_string();
        let text = fs::read_to_string(&args.config).with_context(place)?;
        let mut plan: Self = toml::from_str(&text).with_context(place)?;
        if !args.seeds.is_empty() {
            plan.seeds.clone_from(&args.seeds);
        }
        plan.jobs = args.jobs.unwrap_or(plan.jobs);
        plan.settings.extend(args.overrides.iter().cloned());
        if let Some(config) = &plan.config {
            let beside = args.config.parent().unwrap_or(Path::new(""));
            plan.config = Some(beside.join(config));
        }
        plan.check().with_context(place)?;
        Ok(plan)
    }

    fn check(&self) -> Result<()> {
        if self.seeds.is_empty() || self.variants.is_empty() {
            bail!("a comparison needs at least one of seeds and one of variants");
        }
        if !(1..=1024).contains(&self.jobs) {
            bail!("jobs must lie in 1..=1024, not {}", self.jobs);
        }
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        if seeds.windows(2).any(|pair| pair[0] == pair[1]) {
            bail!("a seed is given twice");
        }
        let mut names = self.variants();
        names.iter().try_for_each(|name| check_name(name))?;
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => bail!("two variants are called '{}'", pair[0]),
            None => Ok(()),
        }
    }

    pub(super) fn variants(&self) -> Vec<String> {
        let names = self.variants.iter().map(|variant| variant.name.clone());
        names.collect()
    }

    /// Every run, a seed's variants together, each with its settings checked before any of them starts.
    pub(super) fn runs(&self, out: &Path) -> Result<Vec<Planned>> {
        let mut runs = Vec::new();
        for &seed in &self.seeds {
            for (index, variant) in self.variants.iter().enumerate() {
                let settings = [&self.settings[..], &variant.settings].concat();
                let place = || format!("variant '{}'", variant.name);
                runs.push(
                    self.planned(index, settings, seed, out)
                        .with_context(place)?,
                );
            }
        }
        Ok(runs)
    }

    fn planned(
        &self,
        variant: usize,
        settings: Vec<String>,
        seed: u64,
        out: &Path,
    ) -> Result<Planned> {
        let name = &self.variants[variant].name;
        if let Some(item) = settings.iter().find(|item| item.starts_with("seed=")) {
            bail!("'{item}': seeds are given by seeds = [...], for all variants alike");
        }
        let with_seed: Vec<String> = settings
            .iter()
            .cloned()
            .chain([format!("seed={seed}")])
            .collect();
        let config = TrainConfig::load(self.config.as_deref(), &with_seed)?.with_whole_paths();
        // Another variant may train for long before this one would find that they are not there.
        for path in [&config.data.train, &config.data.validation]
            .into_iter()
            .flatten()
        {
            File::open(path).with_context(|| path.display().to_string())?;
        }
        let folder = folder(out, name, seed);
        let is_done = is_done(&folder, &config)?;
        Ok(Planned {
            variant,
            name: name.clone(),
            seed,
            folder,
            config: self.config.clone(),
            settings: with_seed,
            steps: config.steps,
            is_done,
        })
    }
}

/// Whether a run folder's run has ended; one of other settings is an error.
fn is_done(folder: &Path, config: &TrainConfig) -> Result<bool> {
    let file = folder.join("config.toml");
    if !file.exists() {
        return Ok(false);
    }
    let saved = TrainConfig {
        // What is kept of a run does not change it.
        checkpoint: config.checkpoint.clone(),
        ..TrainConfig::load(Some(&file), &[])?.with_whole_paths()
    };
    if saved != *config {
        bail!(
            "{}: was run with other settings; choose another --out, or remove it",
            folder.display()
        );
    }
    // What is damaged is told of by the run that goes on with the one before.
    let Some((step, checkpoint)) = newest_checkpoint(folder, &mut |_| ())? else {
        return Ok(false);
    };
    // A run that ended itself has ended, whatever steps were left.
    Ok(step >= config.steps || RunState::load(&checkpoint)?.ended.is_some())
}

/// Whether a run has a checkpoint to go on from.
pub(super) fn has_checkpoint(folder: &Path) -> Result<bool> {
    Ok(!list_checkpoints(folder)?.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn args(config: &Path, more: &[&str]) -> CompareArgs {
        let config = config.display().to_string();
        let words = ["anneal", "compare", "--out", "out", "--config", &config];
        let words = words.iter().chain(more);
        match Args::parse_from(words).command {
            Command::Compare(args) => args,
            other => unreachable!("{other:?}"),
        }
    }

    fn load(text: &str) -> Result<Vec<Planned>> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("compare.toml");
        fs::write(&file, text).unwrap();
        Plan::load(&args(&file, &[]))?.runs(dir.path())
    }

    #[test]
    fn the_recipe_is_fifteen_runs_of_valid_settings() {
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/compare.toml");
        let plan = Plan::load(&args(&recipe, &["steps=7"])).unwrap();
        let out = tempfile::tempdir().unwrap();
        let runs = plan.runs(out.path()).unwrap();
        assert_eq!(runs.len(), 15);
        assert!(runs.iter().all(|run| !run.is_done && run.steps == 7));
        let names: Vec<&str> = runs[..5].iter().map(|run| run.name.as_str()).collect();
        assert_eq!(
            names,
            ["grpo", "clip_higher", "entropy_bonus", "clip_cov", "kl_cov"]
        );
        let seeds = Plan::load(&args(&recipe, &["--seeds", "4,5"])).unwrap();
        assert_eq!(seeds.runs(out.path()).unwrap().len(), 10);
    }

    #[test]
    fn plans_that_make_no_sense_are_refused() {
        let cases = [
            ("seeds = []\nvariants = [{name = 'a'}]", "at least one"),
            ("seeds = [1]\nvariants = []", "at least one"),
            ("seeds = [1, 1]\nvariants = [{name = 'a'}]", "given twice"),
            (
                "seeds = [1]\nvariants = [{name = 'a'}, {name = 'a'}]",
                "two variants",
            ),
            (
                "seeds = [1]\nvariants = [{name = '../a'}]",
                "names a folder",
            ),
            ("seeds = [1]\njobs = 0\nvariants = [{name = 'a'}]", "jobs"),
            (
                "seeds = [1]\nvariants = [{name = 'a', settings = ['seed=2']}]",
                "seeds are given by",
            ),
            (
                "seeds = [1]\nvariants = [{name = 'a', settings = ['loss.tpye=x']}]",
                "variant 'a'",
            ),
            ("seeds = [1]\nvariants = [{nam = 'a'}]", "nam"),
        ];
        for (text, words) in cases {
            let error = format!("{:#}", load(text).unwrap_err());
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
