package egress

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"rekindle/internal/dns"
)

const (
	resolveTimeout = 8 * time.Second
	maxQuery       = 4096
	dnsType        = "application/dns-message"
	ednsSize       = 1232
)

// resolve answers a DNS question of the guest. A message that cannot be read is a 400; everything else is a DNS answer.
func (g *guest) resolve(w http.ResponseWriter, r *http.Request) {
	waiting := g.questions.Add(1)
	defer g.questions.Add(-1)
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuery))
	if err != nil {
		http.Error(w, "the question is too long", http.StatusRequestEntityTooLarge)
		return
	}
	query, err := dns.Parse(data)
	if err != nil || query.Flags&dns.FlagResponse != 0 {
		http.Error(w, "not a DNS question", http.StatusBadRequest)
		return
	}
	answer := failure(query, dns.CodeRefused)
	if waiting <= maxQuestions {
		answer = g.gateway.answer(r.Context(), query)
	}
	w.Header().Set("Content-Type", dnsType)
	w.Write(answer.Pack(dns.MaxMessage)) // fails when the guest is gone
}

// answer asks the resolvers and takes out of their answer what a guest must not reach.
func (g *Gateway) answer(ctx context.Context, query *dns.Message) *dns.Message {
	rules := g.current.Load()
	switch {
	case query.Flags&dns.MaskOpcode != 0:
		return failure(query, dns.CodeNotImpl)
	case len(query.Questions) != 1 || len(query.Answers) > 0:
		return failure(query, dns.CodeFormat)
	case query.Questions[0].Class != dns.ClassIN:
		return failure(query, dns.CodeRefused)
	case !g.worthAsking(rules, query.Questions[0].Type):
		return reply(query, &dns.Message{})
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	resolvers, err := rules.resolversNow()
	if err != nil {
		slog.Error("cannot read the host's resolvers", "error", err)
		return failure(query, dns.CodeFailure)
	}
	found, err := dns.Ask(ctx, resolvers, query.Questions[0], query.Flags)
	if err != nil {
		return failure(query, dns.CodeFailure)
	}
	found.Answers = rules.policy.filter(found.Answers)
	return reply(query, found)
}

// worthAsking is false for what a guest could not use: IPv6 addresses without a way to them (programs that try IPv6 first take
// the guest kernel's word for a connection), and HTTPS records, whose address hints nobody filters.
func (g *Gateway) worthAsking(rules *rules, kind uint16) bool {
	switch kind {
	case dns.TypeAAAA:
		return rules.test6 || g.global6()
	case dns.TypeSVCB, dns.TypeHTTPS:
		return false
	}
	return true
}

// filter keeps a name from pointing to where the guest may not go (DNS rebinding).
func (p *Policy) filter(records []dns.Record) []dns.Record {
	var kept []dns.Record
	for _, record := range records {
		if p.allowsRecord(record) {
			kept = append(kept, record)
		}
	}
	return kept
}

func (p *Policy) allowsRecord(record dns.Record) bool {
	switch record.Type {
	case dns.TypeA, dns.TypeAAAA:
		address, ok := netip.AddrFromSlice(record.Data)
		return ok && address.Is4() == (record.Type == dns.TypeA) && p.CheckAnswer(address) == nil
	case dns.TypeSVCB, dns.TypeHTTPS:
		return false
	}
	return true
}

// reply is found as the answer to query: its records, under the query's own id.
func reply(query, found *dns.Message) *dns.Message {
	answer := failure(query, found.Code())
	answer.Answers = found.Answers
	for _, record := range found.Authority {
		if record.Type != dns.TypeA && record.Type != dns.TypeAAAA {
			answer.Authority = append(answer.Authority, record)
		}
	}
	return answer
}

// failure is an answer without records.
func failure(query *dns.Message, code int) *dns.Message {
	answer := &dns.Message{
		ID:        query.ID,
		Flags:     dns.FlagResponse | dns.FlagCanRec | query.Flags&(dns.FlagRecurse|dns.FlagNoCheck) | uint16(code),
		Questions: query.Questions,
	}
	if query.HasEDNS() {
		answer.Extra = []dns.Record{{Name: "\x00", Type: dns.TypeOPT, Class: ednsSize}}
	}
	return answer
}
