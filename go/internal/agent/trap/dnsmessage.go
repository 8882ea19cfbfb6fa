package trap

import "encoding/binary"

// The few things that the trap reads in a DNS message (RFC 1035, RFC 6891).
const (
	dnsHeader        = 12
	flagsAt          = 2
	questionCountAt  = 4
	answerCountAt    = 6
	authorityCountAt = 8
	extraCountAt     = 10

	flagResponse           = 1 << 15
	flagTruncated          = 1 << 9
	flagRecursionDesired   = 1 << 8
	flagRecursionAvailable = 1 << 7
	maskOpcode             = 0xf << 11
	serverFailure          = 2

	smallestDatagram = 512
	typeOPT          = 41
)

// failed is the SERVFAIL answer to a question.
func failed(question []byte) []byte {
	answer := bare(question, question)
	flags := binary.BigEndian.Uint16(question[flagsAt:])
	flags = flags&(maskOpcode|flagRecursionDesired) | flagResponse | flagRecursionAvailable | serverFailure
	binary.BigEndian.PutUint16(answer[flagsAt:], flags)
	return answer
}

// fit returns answer as it goes into a datagram: cut down to its question and marked truncated when the asker cannot take all of it.
func fit(question, answer []byte) []byte {
	if len(answer) <= largestDatagram(question) || len(answer) < dnsHeader {
		return answer
	}
	cut := bare(question, answer)
	flags := binary.BigEndian.Uint16(answer[flagsAt:])
	binary.BigEndian.PutUint16(cut[flagsAt:], flags|flagTruncated)
	return cut
}

// bare is a message with the header of one and nothing behind it but the question of another.
func bare(question, header []byte) []byte {
	end := questionEnd(question)
	out := append([]byte(nil), header[:dnsHeader]...)
	clear(out[questionCountAt:])
	if end > dnsHeader {
		out = append(out, question[dnsHeader:end]...)
		out[questionCountAt+1] = 1
	}
	return out
}

// questionEnd is the offset behind the one question of a message, or the header's length when there is no such question.
func questionEnd(message []byte) int {
	const typeAndClass = 4
	if binary.BigEndian.Uint16(message[questionCountAt:]) != 1 {
		return dnsHeader
	}
	at := dnsHeader
	for at < len(message) && message[at] != 0 && message[at] < 64 {
		at += 1 + int(message[at])
	}
	at += 1 + typeAndClass
	if at > len(message) || message[at-1-typeAndClass] != 0 {
		return dnsHeader
	}
	return at
}

// largestDatagram is how long an answer the asker takes: what its OPT record says, when that comes first.
func largestDatagram(question []byte) int {
	const shortestOPT = 11
	at := questionEnd(question)
	between := binary.BigEndian.Uint16(question[answerCountAt:]) + binary.BigEndian.Uint16(question[authorityCountAt:])
	extra := binary.BigEndian.Uint16(question[extraCountAt:])
	if between != 0 || extra == 0 || len(question) < at+shortestOPT || question[at] != 0 {
		return smallestDatagram
	}
	if binary.BigEndian.Uint16(question[at+1:]) != typeOPT {
		return smallestDatagram
	}
	return max(smallestDatagram, int(binary.BigEndian.Uint16(question[at+3:])))
}
