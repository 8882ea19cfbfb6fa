package quiet

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestTheFirstRuleThatMatchesIsTheOne(t *testing.T) {
	rules := Rules{
		{Effect: Park, Methods: []string{WebSocket}, Path: "/api/kernels/*/channels"},
		{Effect: Ignore, Methods: []string{"GET"}, Path: "/api/contents/**", Query: "content=1*", Status: 503},
		{Effect: Wake, Methods: []string{"GET", "PUT"}, Path: "/api/contents/**"},
		{Effect: Ignore, Path: "/poll/a*z/x", Status: 429},
	}
	if err := rules.Check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, target string
		want           Effect
	}{
		{WebSocket, "/api/kernels/1/channels?session_id=2", Park},
		{"GET", "/api/kernels/1/channels", Counts},
		{WebSocket, "/api/kernels/1/2/channels", Counts},
		{WebSocket, "/api/kernels//channels", Park},
		{WebSocket, "/api/contents/a?content=1", Counts},
		{"GET", "/api/contents?content=1&hash=0", Ignore},
		{"GET", "/api/contents/?content=1", Ignore},
		{"GET", "/api/contents/a/b%20c?content=1&hash=0&1764", Ignore},
		{"GET", "/api/contents/a?content=0", Wake},
		{"GET", "/api/contents/a", Wake},
		{"PUT", "/api/contents/a", Wake},
		{"POST", "/api/contents/a", Counts},
		{"PUT", "/api/contentsa", Counts},
		{"PUT", "/xapi/contents/a", Counts},
		{"PUT", "/api/%63ontents/a", Counts},
		{"DELETE", "/poll/abcz/x", Ignore},
		{"DELETE", "/poll/az/x", Ignore},
		{"DELETE", "/poll/a/x", Counts},
		{"DELETE", "/poll/abcz/x/", Counts},
		{"DELETE", "/poll/abcz", Counts},
		{"DELETE", "/poll/a/b/z/x", Counts},
		{"GET", "/api/contents/" + strings.Repeat("a", maxTarget), Counts},
	} {
		method := c.method
		if method == WebSocket {
			method = "GET"
		}
		got := Counts
		if rule := rules.Find(httptest.NewRequest(method, c.target, nil), c.method == WebSocket); rule != nil {
			got = rule.Effect
		}
		if got != c.want {
			t.Errorf("%s %.60s: %q, want %q", c.method, c.target, got, c.want)
		}
	}
	if Rules(nil).Find(httptest.NewRequest(http.MethodGet, "/", nil), false) != nil {
		t.Error("no rules, and one was found")
	}
}

func TestBadRulesAreNamed(t *testing.T) {
	good := Rule{Effect: Ignore, Methods: []string{"GET"}, Path: "/a", Status: 503}
	for want, change := range map[string]func(*Rule){
		"effect must":  func(r *Rule) { r.Effect = "hide" },
		"WEBSOCKET":    func(r *Rule) { r.Effect = Park },
		"methods must": func(r *Rule) { r.Methods = make([]string, maxMethods+1) },
		"begin with /": func(r *Rule) { r.Path = "a" },
		"at most 256":  func(r *Rule) { r.Path = "/" + strings.Repeat("a", maxPattern) },
		"between two":  func(r *Rule) { r.Path = "/a*b*c" },
		"as its end":   func(r *Rule) { r.Path = "/**/a" },
		"query must":   func(r *Rule) { r.Query = "*a*" },
		"400 to 599":   func(r *Rule) { r.Status = 200 },
		"not 0":        func(r *Rule) { r.Status = 0 },
		"or ** as":     func(r *Rule) { r.Path = "/a/**b" },
	} {
		rule := good
		change(&rule)
		err := Rules{good, rule}.Check()
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "quiet[1]: ") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := make(Rules, maxRules+1).Check(); err == nil || !strings.Contains(err.Error(), "at most 128 rules") {
		t.Error(err)
	}
	if err := (Rules{good}).Check(); err != nil {
		t.Error(err)
	}
}
