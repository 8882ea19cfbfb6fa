package agent

import (
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"rekindle/internal/agent/boot"
	"rekindle/internal/agent/container"
	"rekindle/internal/agent/hook"
	"rekindle/internal/agent/thaw"
)

// thawAnswer confirms what was done by what is there afterwards: the host compares, and refuses to serve what it does not find.
type thawAnswer struct {
	Seeded      bool         `json:"seeded"`
	ClockStepNS int64        `json:"clock_step_ns"`
	ClockNS     int64        `json:"clock_ns"` // the wall clock after its step, before the hook
	Hostname    string       `json:"hostname"`
	MachineID   string       `json:"machine_id"`
	BootID      string       `json:"boot_id"`
	Generation  int64        `json:"generation"`
	Held        bool         `json:"held"` // the application has run no instruction since its freeze
	Cut         bool         `json:"cut"`  // every old connection to the outside was reset
	Hook        *hook.Result `json:"hook"`
}

func (a *Agent) renew(request thawRequest, received time.Time, answer *thawAnswer) error {
	answer.Held = container.AreHeld(a.held)
	seeded, err := reseed(request.Entropy)
	if err != nil {
		return err
	}
	answer.Seeded = seeded
	step, err := thaw.StepClock(time.Unix(0, request.NowNS), received)
	if err != nil {
		return err
	}
	answer.ClockStepNS, answer.ClockNS = step.Nanoseconds(), time.Now().UnixNano()
	if err := a.rename(request, answer); err != nil {
		return err
	}
	// Connections that the application has opened between its freeze and now belong to a network of the past.
	a.trap.Reset()
	answer.Cut = true
	a.generation = a.generation.Next(request.First, time.Unix(0, answer.ClockNS), step)
	if err := a.generation.Tell(boot.Files); err != nil {
		return err
	}
	answer.Generation = a.generation.Generation
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

func (a *Agent) rename(request thawRequest, answer *thawAnswer) error {
	if request.Hostname == "" {
		return errors.New("hostname must not be empty")
	}
	if len(request.MachineID) != 32 {
		return fmt.Errorf("machine_id must be 32 hexadecimal digits, not %q", request.MachineID)
	}
	if err := container.WriteFiles(boot.Files, container.NewIdentity(request.Hostname, request.MachineID)); err != nil {
		return err
	}
	there, err := container.ReadFiles(boot.Files)
	if err != nil {
		return err
	}
	answer.Hostname, answer.MachineID, answer.BootID = there.Hostname, there.MachineID, there.BootID
	if app := a.application(); app != nil {
		answer.Hostname, err = app.SetHostname(request.Hostname)
	}
	return err
}
