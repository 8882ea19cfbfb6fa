package tunnel

import (
	"io"
	"os"
	"sync"
	"time"
)

// limit is a deadline that calls strike when it passes.
type limit struct {
	mu     sync.Mutex
	timer  *time.Timer
	struck bool
	strike func()
}

func (l *limit) set(t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	if !t.IsZero() {
		l.timer = time.AfterFunc(time.Until(t), l.pass)
	}
}

func (l *limit) pass() {
	l.mu.Lock()
	l.struck = true
	l.mu.Unlock()
	l.strike()
}

// explain turns the failure that the deadline has caused into os.ErrDeadlineExceeded.
func (l *limit) explain(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.struck {
		return os.ErrDeadlineExceeded
	}
	return err
}
