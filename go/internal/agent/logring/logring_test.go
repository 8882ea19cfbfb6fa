package logring

import (
	"strings"
	"testing"
)

func TestFromAgainstAPlainString(t *testing.T) {
	const size = 7
	ring, all := New(size), ""
	for _, piece := range []string{"", "a", "bcd", "efgh", strings.Repeat("0123456789", 3), "xy", strings.Repeat("z", size), "end"} {
		ring.Write([]byte(piece))
		all += piece
		for offset := -1; offset <= len(all)+1; offset++ {
			data, start, end := ring.From(int64(offset))
			wantStart := min(max(offset, 0, len(all)-size), len(all))
			if string(data) != all[wantStart:] || start != int64(wantStart) || end != int64(len(all)) {
				t.Fatalf("after %q from %d: %q, %d, %d", all, offset, data, start, end)
			}
		}
	}
}
