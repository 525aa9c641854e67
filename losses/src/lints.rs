//! Settings that are valid and yet probably not meant.

use crate::{
    AdvantageConfig, Aggregation, ClipCovControl, Granularity, GrpoScale, LossConfig,
    PolicyObjective,
};

/// What of a run the lints must know beside the objective.
#[derive(Debug, Clone, Copy)]
pub struct LintContext<'a> {
    /// Optimizer updates that a full rollout makes.
    pub updates_per_rollout: usize,
    /// The estimator of advantages; `None` for one that no configuration has a name for.
    pub advantage: Option<&'a AdvantageConfig>,
    /// Responses to each prompt.
    pub group_size: usize,
}

/// A share from which on a fraction looks like a percentage: the paper's largest is 0.002.
const LOOKS_LIKE_A_PERCENTAGE: f64 = 0.1;
/// How far, in nats, a sampled token's log-probability lies from the mean at most: e^-30 is not
/// sampled.
const LARGEST_SURPRISE_NATS: f64 = 30.0;

impl PolicyObjective {
    /// A line for each setting that does nothing, or not what its name suggests, as configured.
    pub fn warnings(&self, context: &LintContext) -> Vec<String> {
        let mut warnings = Vec::new();
        self.lint_inertness(context, &mut warnings);
        self.lint_fractions(&mut warnings);
        if let Some(control) = self.clip_cov() {
            self.lint_clips(&mut warnings);
            if let Some(advantage) = context.advantage {
                lint_band(&control, advantage, context.group_size, &mut warnings);
            }
        }
        self.lint_policy_loss(context, &mut warnings);
        warnings
    }

    fn lint_inertness(&self, context: &LintContext, warnings: &mut Vec<String>) {
        let once = context.updates_per_rollout <= 1;
        if let Some(control) = self.kl_cov() {
            let table = self.table("kl_cov");
            warnings.extend(control.inertness(&table, context.updates_per_rollout));
        }
        if self.entropy_control().ratio_clip.is_some() && once {
            warnings.push(
                "entropy.ratio_clip does nothing with one update per rollout: entropies equal \
                 those before it; use a smaller update.mini_batch_prompts or more update.epochs"
                    .to_owned(),
            );
        }
        if self.config().reference_kl.is_some_and(|kl| kl.coef == 0.0) {
            warnings.push(
                "loss.reference_kl.coef = 0 pays for a reference policy and uses it for nothing \
                 but the reported divergence"
                    .to_owned(),
            );
        }
    }

    fn lint_fractions(&self, warnings: &mut Vec<String>) {
        let (clip_cov, kl_cov) = (self.clip_cov(), self.kl_cov());
        let fractions = [
            (
                self.key("clip_cov", "fraction"),
                clip_cov.map(|c| c.fraction),
            ),
            (
                self.key("kl_cov", "top_fraction"),
                kl_cov.map(|c| c.top_fraction),
            ),
        ];
        for (key, fraction) in fractions {
            let Some(fraction) = fraction.filter(|f| *f >= LOOKS_LIKE_A_PERCENTAGE) else {
                continue;
            };
            let (percent, meant) = (100.0 * fraction, fraction / 100.0);
            warnings.push(format!(
                "{key} = {fraction} selects {percent} % of the tokens; if it was meant as a \
                 percentage, write {meant}"
            ));
        }
    }

    /// Where a covariance controller's settings stand: in the loss's table, or in its own.
    fn table(&self, control: &str) -> String {
        let loss = self.loss();
        if loss.clip_cov().is_some() || loss.kl_cov().is_some() {
            "loss".to_owned()
        } else {
            format!("entropy.{control}")
        }
    }

    /// The key of a covariance controller's setting.
    fn key(&self, control: &str, setting: &str) -> String {
        format!("{}.{setting}", self.table(control))
    }

    fn lint_clips(&self, warnings: &mut Vec<String>) {
        let clip = self.loss().clip();
        let Some(clip) = clip.filter(|clip| clip.clip_low < 1.0 || clip.clip_high < 1.0) else {
            return;
        };
        warnings.push(format!(
            "two clips at once: PPO's (loss.clip_low = {}, loss.clip_high = {}) acts beside \
             Clip-Cov's; the paper's scripts set both to 1",
            clip.clip_low, clip.clip_high
        ));
    }

    fn lint_policy_loss(&self, context: &LintContext, warnings: &mut Vec<String>) {
        let aggregation = self.config().aggregation_for(self.loss());
        let granularity = self.loss().granularity();
        if granularity == Granularity::TokenOfSequence
            && aggregation != Aggregation::SeqMeanTokenMean
        {
            warnings.push(
                "loss.aggregation: this loss is a mean over sequences of the mean over their \
                 tokens; its reference has seq_mean_token_mean"
                    .to_owned(),
            );
        }
        let is_named = !self.has_own_loss();
        let is_reinforce = is_named && matches!(self.config().loss, LossConfig::Reinforce(_));
        if is_reinforce && context.updates_per_rollout > 1 {
            let updates = context.updates_per_rollout;
            warnings.push(format!(
                "loss.type = reinforce has no ratio, and the {updates} updates of a rollout are \
                 off its policy from the second on; set update.mini_batch_prompts to \
                 rollout.prompts_per_step"
            ));
        }
    }
}

/// Whether covariances can come into Clip-Cov's band, with advantages of this size.
fn lint_band(
    control: &ClipCovControl,
    advantage: &AdvantageConfig,
    group_size: usize,
    warnings: &mut Vec<String>,
) {
    let is_scaled = match advantage {
        AdvantageConfig::Grpo(grpo) => grpo.scale != GrpoScale::None,
        AdvantageConfig::PassAtK(estimator) => estimator.scale_by_std,
        AdvantageConfig::ReinforcePlusPlus(_)
        | AdvantageConfig::ReinforcePlusPlusBaseline(_)
        | AdvantageConfig::Gae(_) => true,
        AdvantageConfig::DrGrpo(_)
        | AdvantageConfig::Rloo(_)
        | AdvantageConfig::Remax(_)
        | AdvantageConfig::Opo(_) => false,
    };
    // A reward of one in a group of n has an advantage of (n - 1)/√n once divided by the deviation.
    let n = group_size.max(2) as f64;
    let largest_advantage = if is_scaled { (n - 1.0) / n.sqrt() } else { 1.0 };
    let largest = 2.0 * largest_advantage * LARGEST_SURPRISE_NATS;
    if control.cov_low >= largest {
        warnings.push(format!(
            "cov_low = {} is a band that no token can reach: with advantages of at most {:.2} a \
             covariance stays below {:.0}, and Clip-Cov selects nothing",
            control.cov_low, largest_advantage, largest
        ));
    } else if !is_scaled && control.cov_low >= 1.0 {
        warnings.push(format!(
            "advantage.type leaves advantages at the scale of the rewards, and covariances with \
             them: Clip-Cov's band from cov_low = {} was set for advantages that are divided by \
             their standard deviation; lower loss.cov_low, or use advantage.type = grpo",
            control.cov_low
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EntropyControl, ObjectiveConfig};

    fn warnings(loss: &str, entropy: &str, advantage: &str, updates: usize) -> Vec<String> {
        let loss: ObjectiveConfig = toml::from_str(loss).unwrap();
        let entropy: EntropyControl = toml::from_str(entropy).unwrap();
        let advantage: AdvantageConfig = toml::from_str(advantage).unwrap();
        PolicyObjective::new(loss, entropy)
            .unwrap()
            .warnings(&LintContext {
                updates_per_rollout: updates,
                advantage: Some(&advantage),
                group_size: 8,
            })
    }

    #[test]
    fn the_papers_settings_are_not_warned_of() {
        for loss in LossConfig::defaults() {
            let loss = toml::to_string(&loss).unwrap();
            let updates = if loss.contains("reinforce") { 1 } else { 8 };
            let found = warnings(&loss, "", "type = 'grpo'", updates);
            assert!(found.is_empty(), "{loss}: {found:?}");
        }
    }

    #[test]
    fn each_lint_names_its_setting_and_says_why() {
        let grpo = "type = 'grpo'";
        let cases = [
            ("type = 'kl_cov'", "", grpo, 1, "one update per rollout"),
            ("type = 'kl_cov'\nkl_coef = 0.0", "", grpo, 8, "kl_coef = 0"),
            (
                "type = 'kl_cov'\ntop_fraction = 0.2",
                "",
                grpo,
                8,
                "loss.top_fraction = 0.2",
            ),
            (
                "type = 'cispo'",
                "[clip_cov]\nfraction = 0.5",
                grpo,
                8,
                "entropy.clip_cov.fraction = 0.5",
            ),
            (
                "type = 'clip_cov'\nclip_high = 0.28",
                "",
                grpo,
                8,
                "loss.clip_high = 0.28",
            ),
            (
                "type = 'clip_cov'\ncov_low = 500.0\ncov_high = 600.0",
                "",
                grpo,
                8,
                "no token can reach",
            ),
            (
                "type = 'clip_cov'",
                "",
                "type = 'dr_grpo'",
                8,
                "advantage.type",
            ),
            (
                "type = 'gspo'\naggregation = 'token_mean'",
                "",
                grpo,
                8,
                "loss.aggregation",
            ),
            (
                "type = 'reinforce'",
                "",
                grpo,
                8,
                "update.mini_batch_prompts",
            ),
            (
                "type = 'ppo_clip'",
                "[ratio_clip]",
                grpo,
                1,
                "entropy.ratio_clip",
            ),
            (
                "type = 'ppo_clip'\n[reference_kl]\ncoef = 0.0",
                "",
                grpo,
                8,
                "loss.reference_kl.coef = 0",
            ),
        ];
        for (loss, entropy, advantage, updates, words) in cases {
            let found = warnings(loss, entropy, advantage, updates);
            assert!(
                found.len() == 1 && found[0].contains(words),
                "{loss} {entropy}: {found:?}, expected '{words}'"
            );
        }
    }
}
