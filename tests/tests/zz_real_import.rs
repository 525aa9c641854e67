//! Temporary.
use policy::*;
use serde_json::{Map, Value};
#[test]
fn real() {
    let out = std::path::Path::new("/tmp/models/smollm2");
    let _ = std::fs::remove_dir_all(out);
    let start = std::time::Instant::now();
    let summary = import_gguf("/tmp/models/SmolLM2-135M-Instruct.Q4_1.gguf".as_ref(), out, SaveDtype::F32).unwrap();
    println!("{summary:?} {:?}", start.elapsed());
    let t = Tokenizer::load(out).unwrap();
    let e: Value = serde_json::from_slice(&std::fs::read("/work/shared/data/models/smollm2-135m-expected.json").unwrap()).unwrap();
    for case in e["cases"].as_array().unwrap() {
        let text = if let Some(m) = case["messages"].as_array() {
            let r = t.chat_template().unwrap().render(m, case["add_generation_prompt"].as_bool().unwrap(), &Map::new()).unwrap();
            assert_eq!(r, case["rendered"].as_str().unwrap());
            r
        } else { println!("{}", case.get("text").or(case.get("rendered")).unwrap()); case.get("text").or(case.get("rendered")).unwrap().as_str().unwrap().to_owned() };
        let ids: Vec<u64> = t.encode(&text, false).unwrap().into_iter().map(u64::from).collect();
        assert_eq!(serde_json::json!(ids), case["input_ids"]);
        let g: Vec<u32> = case["greedy_ids"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect();
        assert_eq!(t.decode(&g, true).unwrap(), case["greedy_text"].as_str().unwrap());
    }
    let q = Tokenizer::characters("0123456789+-=() \nabcdefghijklmnopqrstuvwxyzé🙂").unwrap();
    std::fs::create_dir_all("/tmp/models/chars").unwrap();
    q.save("/tmp/models/chars".as_ref()).unwrap();
}
