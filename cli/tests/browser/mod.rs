//! A browser without a window, over the Chrome `DevTools` protocol.

use std::{
    env,
    io::{BufRead, BufReader},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket, stream::MaybeTlsStream};

/// No answer of the browser takes this long, however busy the machine.
const PATIENCE: Duration = Duration::from_mins(1);

const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    session: String,
    next: u64,
    /// What the page complained of: console messages, exceptions, and requests but for files.
    pub(crate) complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut child = program()
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("install chromium (Debian: apt-get install chromium), or name a browser in CHROMIUM");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .find_map(|line| {
                Some(
                    line.ok()?
                        .strip_prefix("DevTools listening on ")?
                        .to_owned(),
                )
            })
            .expect("the browser ended before it listened");
        // Its messages go on; nobody reads them, and a full pipe must not stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let (socket, _) = tungstenite::connect(address).unwrap();
        if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mut browser = Self {
            child,
            socket,
            session: String::new(),
            next: 0,
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", &attach)["sessionId"].clone();
        session.as_str().unwrap().clone_into(&mut browser.session);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Calls a method and waits for its answer.
    pub(crate) fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.socket
            .send(Message::text(message.to_string()))
            .unwrap();
        loop {
            let message = self.socket.read().expect("the browser answers");
            let Ok(text) = message.to_text() else {
                continue;
            };
            let Ok(message) = serde_json::from_str::<Value>(text) else {
                continue;
            };
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            // Advice on how these tests read canvases, which the page itself never does.
            "Log.entryAdded" if parameters.to_string().contains("getImageData") => (),
            "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded" => {
                self.complaints.push(parameters.to_string());
            }
            "Network.requestWillBeSent" => {
                let url = parameters["request"]["url"].as_str().unwrap_or_default();
                if !url.starts_with("file:") && !url.starts_with("about:") {
                    self.complaints.push(format!("request for {url}"));
                }
            }
            _ => (),
        }
    }

    /// Opens a page and waits until it says that it is ready; gives the seconds from navigation to that.
    pub(crate) fn open(&mut self, path: &Path) -> f64 {
        self.call(
            "Page.navigate",
            &json!({"url": format!("file://{}", path.display())}),
        );
        let ready = "location.href.startsWith('file:') && document.documentElement?.dataset.ready === 'true'";
        self.wait_for(ready);
        // The time of the frame in which the page called itself ready, on its own clock.
        self.evaluate("window.readyAt ?? performance.now()")
            .as_f64()
            .unwrap()
            / 1e3
    }

    /// Marks when pages opened from now on call themselves ready.
    pub(crate) fn watch_readiness(&mut self) {
        let source = "new MutationObserver((_, observer) => {
            if (document.documentElement?.dataset.ready === 'true') { window.readyAt = performance.now(); observer.disconnect(); }
        }).observe(document, { attributes: true, subtree: true, attributeFilter: ['data-ready'] });";
        self.call(
            "Page.addScriptToEvaluateOnNewDocument",
            &json!({"source": source}),
        );
    }

    /// The value of an expression in the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let parameters =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", &parameters);
        assert!(
            result.get("exceptionDetails").is_none(),
            "{expression}: {result}"
        );
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub(crate) fn wait_for(&mut self, expression: &str) {
        let started = Instant::now();
        while self.evaluate(&format!("Boolean({expression})")) != true {
            assert!(
                started.elapsed() < PATIENCE,
                "never true: {expression}; {:?}",
                self.complaints
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Clicks an element with the mouse, at its middle.
    pub(crate) fn click(&mut self, selector: &str) {
        let place = self.evaluate(&format!(
            "(() => {{ const e = document.querySelector({selector:?}); e.scrollIntoView({{block: 'center', behavior: 'instant'}});
              const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", &event);
        }
    }

    /// Presses Enter in an element.
    pub(crate) fn press_enter(&mut self, selector: &str) {
        self.evaluate(&format!("document.querySelector({selector:?}).focus()"));
        for kind in ["keyDown", "keyUp"] {
            let event = json!({"type": kind, "key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13});
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    /// Sets a control as a person would, and tells the page of it.
    pub(crate) fn set(&mut self, selector: &str, value: &str) {
        self.evaluate(&format!(
            "(() => {{ const e = document.querySelector({selector:?}); e.value = {value:?};
              for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {{bubbles: true}})); }})()"
        ));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The browser that CHROMIUM names, or the first that is installed.
fn program() -> Command {
    if let Some(named) = env::var_os("CHROMIUM") {
        return Command::new(named);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &&&str| env::split_paths(&path).any(|folder| folder.join(name).is_file());
    Command::new(PROGRAMS.iter().find(is_there).unwrap_or(&PROGRAMS[0]))
}
