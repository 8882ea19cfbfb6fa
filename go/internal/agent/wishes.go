package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"rekindle/internal/agent/local"
)

// newsAfter is closed when the application has said something else than the host has heard; never for a host that does not ask.
func (a *Agent) newsAfter(heard string) (<-chan struct{}, error) {
	if heard == "" {
		return nil, nil
	}
	number, err := strconv.ParseInt(heard, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("news: %w", err)
	}
	return a.desk.After(number), nil
}

func (a *Agent) wishes(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, a.desk.Wishes())
}

// aboutOf reads what the host says of this microVM. It comes beside the body, whose members older agents know by name.
func aboutOf(text string) (*local.About, error) {
	if text == "" {
		return nil, nil
	}
	var about local.About
	if err := json.Unmarshal([]byte(text), &about); err != nil {
		return nil, fmt.Errorf("about: %w", err)
	}
	return &about, nil
}
