//! Scratch.
use burn::tensor::Device;
use std::time::Instant;
use trainer::*;
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let device = Device::flex().autodiff();
    match args[0].as_str() {
        "sft" => {
            let config = SftConfig::load(None, &args[2..]).unwrap();
            let policy = config.new_policy(&device).unwrap();
            println!(
                "{} parameters, vocab {}",
                policy.config.parameters(),
                policy.config.vocab_size
            );
            let t = Instant::now();
            let (policy, report) = train_supervised(&config, policy, &mut |p| {
                if p.validation.is_some() || p.step == 4 {
                    println!(
                        "{:?} {} loss {:.4} tokens {} {:.1}s",
                        p.validation,
                        p.step,
                        p.loss,
                        p.tokens,
                        t.elapsed().as_secs_f64()
                    )
                }
            })
            .unwrap();
            println!("{report:?} {:.1}s", t.elapsed().as_secs_f64());
            std::fs::create_dir_all(&args[1]).unwrap();
            policy
                .save(args[1].as_ref(), policy::SaveDtype::F32)
                .unwrap();
        }
        "train" => {
            let config = TrainConfig::load(None, &args[3..]).unwrap();
            let policy =
                policy::Policy::load(args[1].as_ref(), burn::tensor::DType::F32, &device).unwrap();
            let mut folder = RunFolder::create(args[2].as_ref(), &config).unwrap();
            let mut trainer = Trainer::new(config, policy).unwrap();
            trainer.run(&mut folder, &mut |e: Event<'_>| match e {
                Event::Step(m) => println!("{} acc {:.3} H {:.4} val {:?} cov {:.4} len {:.1} trunc {:.2} kept {}/{} sel {} loss {:.4} clip {:.4} kl {:.5} gn {:.3} gen {:.2} upd {:.2} gap {:.1e}", m.step, m.accuracy_mean, m.entropy_token_mean, m.validation_accuracy, m.covariance_mean, m.response_length_mean, m.truncated_fraction, m.groups_kept, m.groups_sampled, m.selected_tokens, m.policy_loss, m.clip_fraction, m.approx_kl, m.grad_norm, m.generate_seconds, m.update_seconds, m.sampler_log_prob_gap),
                Event::Warning(w) => println!("warning {w}"), _ => ()
            }).unwrap();
        }
        _ => panic!(),
    }
}
