package event

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
)

// collect subscribes in the background; the returned function ends that and tells what came.
func collect(t *testing.T, h *Hub, deliver func([]Event) error) (stop func() []Event) {
	ctx, cancel := context.WithCancel(t.Context())
	var got []Event
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Subscribe(ctx, func(batch []Event) error {
			if err := deliver(batch); err != nil {
				return err
			}
			got = append(got, batch...)
			return nil
		})
	}()
	return func() []Event { cancel(); <-done; return got }
}

func take([]Event) error { return nil }

func TestEventsWaitForASubscriberOnceEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub()
		h.Emit(Wake, "a")
		h.Emit(ChannelLost, "a")
		h.Emit(Wake, "a")
		stop := collect(t, h, take)
		synctest.Wait()
		h.Emit(Wake, "a")
		synctest.Wait()
		if got := stop(); !reflect.DeepEqual(got, []Event{{Wake, "a"}, {ChannelLost, "a"}, {Wake, "a"}}) {
			t.Error(got)
		}
	})
}

func TestFailedDeliveryWaitsForTheNextSubscriber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub()
		broken := collect(t, h, func([]Event) error { return errors.New("gone") })
		h.Emit(ChannelLost, "a")
		synctest.Wait()
		stop := collect(t, h, take)
		synctest.Wait()
		if got := stop(); !reflect.DeepEqual(got, []Event{{ChannelLost, "a"}}) {
			t.Error(got)
		}
		broken()
	})
}

func TestANewSubscriberReplacesTheOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub()
		first := collect(t, h, take)
		synctest.Wait()
		second := collect(t, h, take)
		synctest.Wait()
		h.Emit(Wake, "a")
		synctest.Wait()
		if old, new := first(), second(); len(old) != 0 || len(new) != 1 {
			t.Error(old, new)
		}
	})
}

func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub()
		h.Emit(ChannelLost, "a")
		h.Forget("a")
		stop := collect(t, h, take)
		synctest.Wait()
		h.Emit(Wake, "b")
		synctest.Wait()
		if got := stop(); !reflect.DeepEqual(got, []Event{{Wake, "b"}}) {
			t.Error(got)
		}
	})
}
