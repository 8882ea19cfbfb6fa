package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"rekindle/internal/agent/boot"
	"rekindle/internal/agent/container"
	"rekindle/internal/agent/hook"
)

type freezeRequest struct {
	Hook *hook.Hook `json:"hook"`
	Trim bool       `json:"trim"`
}

type freezeAnswer struct {
	Hook   *hook.Result `json:"hook"`
	Frozen bool         `json:"frozen"`
}

// freeze makes the guest ready to be stopped for good: connections of both ways are broken, and when the answer is out, both ports wait for
// whoever comes next. A hook that fails prevents all of that. A freeze that nobody has followed up may be asked for again: the application,
// which has not run since, is not asked again, and its answer is the one that it gave.
func (a *Agent) freeze(w http.ResponseWriter, r *http.Request) {
	var request freezeRequest
	if !decode(w, r, &request) {
		return
	}
	a.turning.Lock()
	defer a.turning.Unlock()
	a.desk.Following()
	if err := a.agree(r.Context(), request.Hook); err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	answer := freezeAnswer{Frozen: true}
	if request.Hook != nil {
		answer.Hook, answer.Frozen = a.agreed, a.agreed.Passed()
	}
	if !answer.Frozen {
		reply(w, http.StatusOK, answer)
		return
	}
	body, err := json.Marshal(answer)
	if err == nil {
		err = a.stand(request.Trim)
	}
	if err != nil {
		fail(w, http.StatusInternalServerError, errors.Join(err, a.join()))
		return
	}
	sessionOf(r).CloseAfter(body)
	send(w, http.StatusOK, body)
}

// agree asks the application whether it may be frozen, unless it stands still because it has said so.
func (a *Agent) agree(ctx context.Context, asked *hook.Hook) error {
	if a.frozen.Load() && (asked == nil || a.agreed != nil) {
		return nil
	}
	if err := a.join(); err != nil { // one that stands still could not answer
		return err
	}
	if asked != nil {
		result := asked.Call(ctx)
		a.agreed = &result
	}
	return nil
}

// stand stops the application, breaks every connection between it and the world, and lets no new one come up until join.
func (a *Agent) stand(trim bool) error {
	if !a.frozen.Swap(true) {
		a.desk.Hold()
		a.uplink.hold()
		var err error
		if a.held, err = container.Hold(); err != nil {
			return err
		}
	}
	a.trap.Reset() // the relay hears of it on the session that is dropped next
	a.inbound.Reset()
	a.uplink.drop()
	if trim {
		return boot.Trim()
	}
	return nil
}

func (a *Agent) join() error {
	a.agreed = nil
	a.frozen.Store(false)
	a.desk.Release()
	a.uplink.release()
	return a.letGo()
}

// letGo lets the application go on from where a freeze has stopped it.
func (a *Agent) letGo() error {
	held := a.held
	a.held = nil
	return container.LetGo(held)
}

type thawRequest struct {
	Entropy   *string    `json:"entropy"`
	NowNS     int64      `json:"now_ns"`
	Hostname  string     `json:"hostname"`
	MachineID string     `json:"machine_id"`
	First     bool       `json:"first"`
	Hook      *hook.Hook `json:"hook"`
}

// thaw makes a restored guest a machine of its own, then opens it and lets the application go on.
func (a *Agent) thaw(w http.ResponseWriter, r *http.Request) {
	received := time.Now()
	var request thawRequest
	if !decode(w, r, &request) {
		return
	}
	a.turning.Lock()
	defer a.turning.Unlock()
	var answer thawAnswer
	if err := a.renew(request, received, &answer); err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	about, err := aboutOf(r.URL.Query().Get("about"))
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	a.desk.Thawed(request.First, about)
	if err := a.join(); err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	if request.Hook != nil {
		result := request.Hook.Call(r.Context())
		answer.Hook = &result
	}
	reply(w, http.StatusOK, answer)
}
