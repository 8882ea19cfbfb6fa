// Package wall is the wall clock: the machine's, or in tests the one that a file describes (rekindle/clock.py has the same).
package wall

import (
	"encoding/json"
	"os"
	"time"
)

// testClock names the file. TEST ONLY.
const testClock = "REKINDLE_TEST_CLOCK"

type says struct {
	RealMS  float64 `json:"real_ms"`
	ShownMS float64 `json:"shown_ms"`
	Rate    float64 `json:"rate"`
}

var file = os.Getenv(testClock)

// Now is the time of day. Spans within this process are measured with time.Now.
func Now() time.Time {
	if file == "" {
		return time.Now()
	}
	return read(file)
}

// read panics when the file cannot be read: a test's clock that fails must not pass for the machine's.
func read(path string) time.Time {
	text, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	var clock says
	if err := json.Unmarshal(text, &clock); err != nil {
		panic(err)
	}
	return time.UnixMilli(int64(clock.ShownMS + (float64(time.Now().UnixMilli())-clock.RealMS)*clock.Rate))
}
