package dns

import "strings"

const maxName = 255

// Name is a domain name in wire form, uncompressed: labels with their lengths and the root's zero at the end.
type Name string

// Equal compares as DNS does, without case.
func (n Name) Equal(other Name) bool { return strings.EqualFold(string(n), string(other)) }

// String is for people; it is not escaped.
func (n Name) String() string {
	var labels []string
	for rest := string(n); len(rest) > 1; rest = rest[1+int(rest[0]):] {
		labels = append(labels, rest[1:1+int(rest[0])])
	}
	return strings.Join(labels, ".") + "."
}

// NewName makes a name of dotted text. It is for tests and constants: labels must be legal.
func NewName(text string) Name {
	var b strings.Builder
	for label := range strings.SplitSeq(strings.Trim(text, "."), ".") {
		if label != "" {
			b.WriteByte(byte(len(label)))
			b.WriteString(label)
		}
	}
	b.WriteByte(0)
	return Name(b.String())
}

// name reads a name that may be compressed.
// Invariant: every pointer leads to before the place where the part of the name it ends began, so it terminates.
func (r *reader) name() Name {
	var wire []byte
	at, floor, jumped := r.at, r.at, false
	for r.err == nil {
		length, ok := r.peek(at)
		switch {
		case !ok:
			r.fail("name runs out of the message")
		case length == 0:
			if !jumped {
				r.at = at + 1
			}
			return Name(append(wire, 0))
		case length&0xc0 == 0xc0:
			low, ok := r.peek(at + 1)
			target := int(length&0x3f)<<8 | int(low)
			if !ok || target >= floor {
				r.fail("name points forward")
				continue
			}
			if !jumped {
				r.at = at + 2
			}
			at, floor, jumped = target, target, true
		case length&0xc0 != 0:
			r.fail("unknown label type")
		case at+1+int(length) > len(r.data) || len(wire)+int(length)+2 > maxName:
			r.fail("label or name too long")
		default:
			wire = append(wire, r.data[at:at+1+int(length)]...)
			at += 1 + int(length)
		}
	}
	return ""
}
