package conns

import (
	"net"
	"testing"
)

func TestResetBreaksAndWaits(t *testing.T) {
	set := New(2)
	first, second := serveUntilBroken(t, set), serveUntilBroken(t, set)
	third, _ := net.Pipe()
	if set.Add(third) {
		t.Fatal("the set took one too many")
	}
	set.Reset()
	for _, done := range []*bool{first, second} {
		if !*done {
			t.Fatal("Reset did not wait")
		}
	}
	if set.Len() != 0 || !set.Add(third) {
		t.Fatal("the set has no room afterwards")
	}
}

func serveUntilBroken(t *testing.T, set *Set) *bool {
	t.Helper()
	near, _ := net.Pipe()
	if !set.Add(near) {
		t.Fatal("the set is full")
	}
	done := new(bool)
	go func() {
		near.Read(make([]byte, 1))
		*done = true // what a handler does before it lets go
		set.Remove(near)
	}()
	return done
}
