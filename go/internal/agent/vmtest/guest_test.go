package vmtest

import (
	"testing"
	"time"
)

func start(user string, argv ...string) map[string]any {
	return map[string]any{"argv": argv, "env": map[string]string{"PATH": "/app", "COLOUR": "green"}, "workdir": "/srv/made", "user": user,
		"capabilities": "default", "shm_mib": 64, "hostname": "localhost"}
}

func TestBoot(t *testing.T) {
	b := newBench(t)
	began := time.Now()
	m := b.boot(t)
	m.open(nil)
	t.Logf("boot to both ports synced: %v", time.Since(began))
	t.Log(m.call("GET", "/v1/status", nil, 200))
	m.call("POST", "/v1/start", start("", "probe"), 200)
	t.Log(m.app("/self"))
}
