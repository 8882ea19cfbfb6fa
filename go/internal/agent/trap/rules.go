package trap

import (
	"encoding/binary"
	"fmt"

	"rekindle/internal/agent/netlink"
)

// The ports on which the trap listens in the guest. Both are reserved numbers that no application uses.
const (
	tcpPort = 1017
	dnsPort = 1018
)

const table = "rekindle"

// nf_tables messages, hooks and attributes (linux/netfilter/nf_tables.h).
const (
	subsystem  = 10 << 8 // NFNL_SUBSYS_NFTABLES
	batchBegin = 0x10
	batchEnd   = 0x11
	newTable   = subsystem | 0
	newChain   = subsystem | 3
	newRule    = subsystem | 6
	familyInet = 1

	hookPrerouting = 0
	hookForward    = 2
	hookOutput     = 3
	// priorities: address translation before filtering, as the nft tool's names say
	priorityDstnat = -100
	priorityFilter = 0
)

// loadRules puts the table in place, in one transaction: TCP and DNS that would leave by the interface are redirected to the trap, also
// from networks made inside the guest; everything else is refused at once.
func loadRules() error {
	messages := []netlink.Message{
		batch(batchBegin),
		create(newTable, 0, netlink.String(1, table)),
		chain("redirect", "nat", hookOutput, priorityDstnat),
		chain("nested", "nat", hookPrerouting, priorityDstnat),
		chain("refuse", "filter", hookOutput, priorityFilter),
		chain("transit", "filter", hookForward, priorityFilter),
		rule("redirect", leaving(), isTCP(), redirect(tcpPort)),
		rule("redirect", leaving(), isDNS(), redirect(dnsPort)),
		rule("nested", notFromHere(), isTCP(), redirect(tcpPort)),
		rule("nested", notFromHere(), isDNS(), redirect(dnsPort)),
		rule("refuse", leaving(), notRedirected(), refuse()),
		rule("transit", leaving(), refuse()),
		batch(batchEnd),
	}
	if err := netlink.Do(protocolNetfilter, messages...); err != nil {
		return fmt.Errorf("load nftables rules: %w", err)
	}
	return nil
}

const protocolNetfilter = 12

func header(family byte, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, 0}, resource)
}

func batch(kind uint16) netlink.Message {
	return netlink.Message{Type: kind, Body: header(0, subsystem>>8)}
}

func create(kind, flags uint16, attributes ...[]byte) netlink.Message {
	body := netlink.Join(header(familyInet, 0), netlink.Join(attributes...))
	return netlink.Message{Type: kind, Flags: netlink.Create | netlink.Ack | flags, Body: body}
}

func chain(name, kind string, hook uint32, priority int32) netlink.Message {
	return create(newChain, 0,
		netlink.String(1, table),
		netlink.String(3, name),
		netlink.Nest(4, netlink.BE32(1, hook), netlink.BE32(2, uint32(priority))),
		netlink.String(7, kind))
}

func rule(chain string, expressions ...[]byte) netlink.Message {
	return create(newRule, netlink.Append,
		netlink.String(1, table),
		netlink.String(2, chain),
		netlink.Nest(4, expressions...))
}

func expression(name string, data ...[]byte) []byte {
	return netlink.Nest(1, netlink.String(1, name), netlink.Nest(2, data...))
}

// Expressions work on register 1, which the next one reads.
const register = 1

const (
	equal    = 0
	notEqual = 1
)

func compare(operation uint32, value ...byte) []byte {
	return expression("cmp", netlink.BE32(1, register), netlink.BE32(2, operation), netlink.Nest(3, netlink.Attr(1, value...)))
}

// meta keys
const (
	metaInName   = 6
	metaOutName  = 7
	metaProtocol = 16
)

func meta(key uint32) []byte {
	return expression("meta", netlink.BE32(1, register), netlink.BE32(2, key))
}

func interfaceName(name string) []byte {
	padded := make([]byte, 16) // IFNAMSIZ
	copy(padded, name)
	return padded
}

func leaving() []byte {
	return netlink.Join(meta(metaOutName), compare(equal, interfaceName(interfaceOut)...))
}

func notFromHere() []byte {
	return netlink.Join(meta(metaInName), compare(notEqual, interfaceName("lo")...))
}

const (
	protocolTCP = 6
	protocolUDP = 17
)

func isTCP() []byte { return netlink.Join(meta(metaProtocol), compare(equal, protocolTCP)) }

func isDNS() []byte {
	const transportHeader, destinationPort, portLength = 2, 2, 2
	return netlink.Join(
		meta(metaProtocol), compare(equal, protocolUDP),
		expression("payload", netlink.BE32(1, register), netlink.BE32(2, transportHeader),
			netlink.BE32(3, destinationPort), netlink.BE32(4, portLength)),
		compare(equal, 0, 53))
}

func redirect(port uint16) []byte {
	const rangeSpecified = 2 // NF_NAT_RANGE_PROTO_SPECIFIED
	value := netlink.Attr(1, binary.BigEndian.AppendUint16(nil, port)...)
	return netlink.Join(
		expression("immediate", netlink.BE32(1, register), netlink.Nest(2, value)),
		expression("redir", netlink.BE32(1, register), netlink.BE32(3, rangeSpecified)))
}

// notRedirected holds for packets whose connection has no translated destination. The status is in host byte order.
func notRedirected() []byte {
	const ctStatus, destinationTranslated = 2, 1 << 5 // NFT_CT_STATUS, IPS_DST_NAT
	host := func(n uint32) []byte { return netlink.Nest(4, netlink.Host32(1, n)) }
	xor := netlink.Nest(5, netlink.Host32(1, 0))
	return netlink.Join(
		expression("ct", netlink.BE32(1, register), netlink.BE32(2, ctStatus)),
		expression("bitwise", netlink.BE32(1, register), netlink.BE32(2, register), netlink.BE32(3, 4), host(destinationTranslated), xor),
		compare(equal, 0, 0, 0, 0))
}

func refuse() []byte {
	const icmpx, portUnreachable = 2, 1
	return expression("reject", netlink.BE32(1, icmpx), netlink.Attr(2, portUnreachable))
}
