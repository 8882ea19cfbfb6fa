package wall

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestAFileSaysTheTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clock")
	anHourAgo := time.Now().Add(-time.Hour).UnixMilli()
	text := fmt.Sprintf(`{"real_ms": %d, "shown_ms": 1000000, "rate": 24}`, anHourAgo)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(path).Sub(time.UnixMilli(1_000_000)); got < 24*time.Hour || got > 25*time.Hour {
		t.Errorf("an hour at 24 times the pace was %v", got)
	}
}

func TestWithoutAFileItIsTheMachines(t *testing.T) {
	if gap := time.Since(Now()); gap < 0 || gap > time.Minute {
		t.Errorf("off by %v", gap)
	}
}
