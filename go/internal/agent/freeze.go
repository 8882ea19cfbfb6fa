package agent

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"rekindle/internal/agent/boot"
	"rekindle/internal/agent/container"
	"rekindle/internal/agent/hook"
	"rekindle/internal/agent/thaw"
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
// whoever comes next. A hook that fails prevents all of that.
func (a *Agent) freeze(w http.ResponseWriter, r *http.Request) {
	var request freezeRequest
	if !decode(w, r, &request) {
		return
	}
	a.desk.Following()
	var answer freezeAnswer
	if request.Hook != nil {
		result := request.Hook.Call(r.Context())
		answer.Hook = &result
		if !result.Passed() {
			reply(w, http.StatusOK, answer)
			return
		}
	}
	a.cutOff()
	if request.Trim {
		if err := boot.Trim(); err != nil {
			a.join()
			fail(w, http.StatusInternalServerError, err)
			return
		}
	}
	answer.Frozen = true
	body, err := json.Marshal(answer)
	if err != nil {
		a.join()
		fail(w, http.StatusInternalServerError, err)
		return
	}
	sessionOf(r).CloseAfter(body)
	send(w, http.StatusOK, body)
}

// cutOff breaks every connection between the application and the world, and lets no new one come up until join.
func (a *Agent) cutOff() {
	a.frozen.Store(true)
	a.desk.Hold()
	a.uplink.hold()
	a.trap.Reset() // the relay hears of it on the session that is dropped next
	a.inbound.Reset()
	a.uplink.drop()
}

func (a *Agent) join() {
	a.frozen.Store(false)
	a.desk.Release()
	a.uplink.release()
}

type thawRequest struct {
	Entropy   *string    `json:"entropy"`
	NowNS     int64      `json:"now_ns"`
	Hostname  string     `json:"hostname"`
	MachineID string     `json:"machine_id"`
	First     bool       `json:"first"`
	Hook      *hook.Hook `json:"hook"`
}

type thawAnswer struct {
	Seeded      bool         `json:"seeded"`
	ClockStepNS int64        `json:"clock_step_ns"`
	Hook        *hook.Result `json:"hook"`
}

// thaw makes a restored guest a machine of its own, then opens it.
func (a *Agent) thaw(w http.ResponseWriter, r *http.Request) {
	received := time.Now()
	var request thawRequest
	if !decode(w, r, &request) {
		return
	}
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
	a.join()
	if request.Hook != nil {
		result := request.Hook.Call(r.Context())
		answer.Hook = &result
	}
	reply(w, http.StatusOK, answer)
}

func (a *Agent) renew(request thawRequest, received time.Time, answer *thawAnswer) error {
	seeded, err := reseed(request.Entropy)
	if err != nil {
		return err
	}
	answer.Seeded = seeded
	step, err := thaw.StepClock(time.Unix(0, request.NowNS), received)
	if err != nil {
		return err
	}
	answer.ClockStepNS = step.Nanoseconds()
	if err := a.rename(container.Identity{Hostname: request.Hostname, MachineID: request.MachineID}); err != nil {
		return err
	}
	// Connections that the application has opened between its freeze and now belong to a network of the past.
	a.trap.Reset()
	return nil
}

// reseed is skipped when the host sends no entropy, which it does only to show what happens then.
func reseed(text *string) (bool, error) {
	if text == nil {
		return false, nil
	}
	entropy, err := base64.StdEncoding.DecodeString(*text)
	if err != nil || len(entropy) == 0 {
		return false, errors.New("entropy must be base64 of at least one byte")
	}
	if err := thaw.Reseed(entropy); err != nil {
		return false, err
	}
	return true, nil
}

func (a *Agent) rename(identity container.Identity) error {
	if identity.Hostname == "" {
		return errors.New("hostname must not be empty")
	}
	if len(identity.MachineID) != 32 {
		return fmt.Errorf("machine_id must be 32 hexadecimal digits, not %q", identity.MachineID)
	}
	if err := container.WriteFiles(boot.Files, identity); err != nil {
		return err
	}
	if app := a.application(); app != nil {
		return app.SetHostname(identity.Hostname)
	}
	return nil
}
