//! A real Chromium without a window, driven over WebDriver (Debian's packages chromium and chromium-driver).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{self, Request};
use crate::{Host, Process, WorkDir, ports, wait};

/// A page may take so long to load, and a script to end.
const LIMIT: Duration = Duration::from_secs(30);

/// One browser with an empty profile. It ends with its owner.
#[derive(Debug)]
pub struct Browser {
    driver: SocketAddr,
    session: String,
    _process: Process,
    _profile: WorkDir,
}

/// Whether the programs are there.
pub fn is_installed() -> bool {
    ["chromium", "chromedriver"]
        .iter()
        .all(|name| Command::new(name).arg("--version").output().is_ok_and(|ended| ended.status.success()))
}

impl Browser {
    /// Starts one with a window of this size.
    #[track_caller]
    pub fn start(width: u32, height: u32) -> Self {
        let (port, profile) = (ports::free(), WorkDir::new("browser"));
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}"));
        let process = Process::of("chromedriver", command);
        let driver = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        wait::until("chromedriver", LIMIT, || call(driver, "GET", "/status", &json!(null)));
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            // It ends with chromedriver, however that ends.
            "--remote-debugging-pipe",
            &format!("--user-data-dir={}", profile.path().display()),
            &format!("--window-size={width},{height}"),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = call(driver, "POST", "/session", &wanted).unwrap_or_else(|e| panic!("no browser: {e}"));
        let session = session["sessionId"].as_str().map(|id| format!("/session/{id}"));
        let session = session.unwrap_or_else(|| panic!("no session"));
        Self { driver, session, _process: process, _profile: profile }
    }

    #[track_caller]
    fn post(&self, page: &str, body: &Value) -> Value {
        let answer = call(self.driver, "POST", &format!("{}{page}", self.session), body);
        answer.unwrap_or_else(|e| panic!("WebDriver {page}: {e}"))
    }

    /// Opens a page and waits until it is loaded.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({"url": url}));
    }

    /// What a function with this body returns in the page.
    #[track_caller]
    pub fn run(&self, body: &str) -> Value {
        self.post("/execute/sync", &json!({"script": body, "args": []}))
    }

    /// The text of the element with this id as a person sees it; empty if there is none.
    #[track_caller]
    pub fn text(&self, id: &str) -> String {
        let text = self.run(&format!("return document.getElementById('{id}')?.innerText ?? ''"));
        text.as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn element(&self, selector: &str) -> String {
        let found = self.post("/element", &json!({"using": "css selector", "value": selector}));
        let id = found.as_object().and_then(|fields| fields.values().next()).and_then(Value::as_str);
        id.unwrap_or_else(|| panic!("no element {selector}")).to_owned()
    }

    /// Clicks where a person would: what is hidden or covered cannot be clicked.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        self.post(&format!("/element/{}/click", self.element(selector)), &json!({}));
    }

    /// Types into an element.
    #[track_caller]
    pub fn type_into(&self, selector: &str, text: &str) {
        self.post(&format!("/element/{}/value", self.element(selector)), &json!({"text": text}));
    }

    /// Everything at this level that the console said since it was asked last.
    #[track_caller]
    pub fn console(&self, level: &str) -> Vec<String> {
        let lines = self.post("/se/log", &json!({"type": "browser"}));
        let lines = lines.as_array().cloned().unwrap_or_default().into_iter();
        let lines = lines.filter(|line| line["level"] == level);
        lines.filter_map(|line| line["message"].as_str().map(str::to_owned)).collect()
    }

    /// A command of the DevTools protocol.
    #[track_caller]
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// The window as that of a device of this width, in light or dark.
    #[track_caller]
    pub fn look_like(&self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700});
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    /// What is seen without scrolling, as PNG.
    #[track_caller]
    pub fn picture(&self) -> Vec<u8> {
        let made = call(self.driver, "GET", &format!("{}/screenshot", self.session), &json!(null));
        let made = made.unwrap_or_else(|e| panic!("WebDriver /screenshot: {e}"));
        decoded(made.as_str().unwrap_or_default())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = call(self.driver, "DELETE", &self.session, &json!(null));
    }
}

/// The value of an answer, or the words of the error.
fn call(driver: SocketAddr, method: &str, page: &str, body: &Value) -> Result<Value, String> {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let headers = [("content-type", "application/json")];
    let request = Request { method, path: page, headers: &headers, body: &body };
    let answer = http::call(&Host::local(), driver, request, LIMIT);
    let answer = answer.map_err(|e: io::Error| e.to_string())?;
    let value = answer.json()["value"].clone();
    match answer.status {
        200 => Ok(value),
        _ => Err(format!("{}: {}", value["error"], value["message"])),
    }
}

/// Base64 as WebDriver sends it.
fn decoded(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(u32::from(c - b'A')),
        b'a'..=b'z' => Some(u32::from(c - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(c - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u32> = text.bytes().filter_map(digit).collect();
    let group = |group: &[u32]| {
        let bits = group.iter().fold(0, |bits, digit| (bits << 6) | digit) << (6 * (4 - group.len()));
        bits.to_be_bytes()[1..group.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn base64() {
        for (text, bytes) in [("", ""), ("TQ==", "M"), ("TWE=", "Ma"), ("TWFu", "Man"), ("TWFuTQ==", "ManM")]
        {
            assert_eq!(decoded(text), bytes.as_bytes());
        }
        assert_eq!(decoded("/+8="), [0xff, 0xef]);
    }
}
