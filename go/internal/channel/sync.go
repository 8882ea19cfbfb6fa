package channel

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"time"
)

// A sync frame is four fixed bytes and twelve random ones. It is the first thing either side sees of a session: a restored guest
// may hold the rest of an old session, and nothing but these bytes tells it that the peer is another one now.
const (
	syncMagic  = "RKSY"
	syncLength = 16
)

// Greet starts a session on the host's side: it sends a fresh sync frame and throws away what the guest says until the same frame
// comes back. It returns ctx's error when ctx ends first; conn has no deadline afterwards, whatever happened, and is not closed.
// After an error nothing is known about the guest: close conn and dial again.
func Greet(ctx context.Context, conn net.Conn) error {
	frame := make([]byte, syncLength)
	copy(frame, syncMagic)
	rand.Read(frame[len(syncMagic):])
	release := cutWhenDone(ctx, conn)
	err := exchange(conn, frame)
	if release() && err != nil {
		return fmt.Errorf("guest did not answer the sync frame: %w", context.Cause(ctx))
	}
	return err
}

func exchange(conn net.Conn, frame []byte) error {
	if _, err := conn.Write(frame); err != nil {
		return fmt.Errorf("send sync frame: %w", err)
	}
	if _, err := readFrame(conn, frame); err != nil {
		return fmt.Errorf("wait for sync frame: %w", err)
	}
	return nil
}

// cutWhenDone makes a blocked read or write of conn fail once ctx is done. The returned function ends that, takes the deadline
// away again and tells whether it had struck.
func cutWhenDone(ctx context.Context, conn net.Conn) func() bool {
	struck := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		conn.SetDeadline(time.Unix(1, 0)) // fails only on a closed conn, whose reads fail anyway
		close(struck)
	})
	return func() bool {
		if stop() {
			return false
		}
		<-struck
		conn.SetDeadline(time.Time{})
		return true
	}
}

// Answer starts a session on the guest's side: it throws away what it reads until a sync frame is whole and writes that back.
// It never reads past the frame.
func Answer(stream io.ReadWriter) error {
	frame, err := readFrame(stream, []byte(syncMagic))
	if err != nil {
		return err
	}
	_, err = stream.Write(frame)
	return err
}

// readFrame returns the first sixteen bytes of r that begin with start, and leaves r right behind them.
func readFrame(r io.Reader, start []byte) ([]byte, error) {
	window := make([]byte, 0, syncLength)
	for {
		have := len(window)
		window = window[:syncLength]
		if _, err := io.ReadFull(r, window[have:]); err != nil {
			return nil, err
		}
		if bytes.HasPrefix(window, start) {
			return window, nil
		}
		window = keepTail(window, start)
	}
}

// keepTail moves the longest end of window that may be the beginning of start to the front, and drops what is before it.
func keepTail(window, start []byte) []byte {
	for i := 1; i < len(window); i++ {
		tail := window[i:]
		if bytes.HasPrefix(start, tail[:min(len(tail), len(start))]) {
			return window[:copy(window, tail)]
		}
	}
	return window[:0]
}
