package dns

import "encoding/binary"

// Pack writes a message of at most limit bytes; records that do not fit are left out and the truncation flag is set.
func (m *Message) Pack(limit int) []byte {
	w := &writer{offsets: map[Name]int{}}
	w.uint16(m.ID, m.Flags, uint16(len(m.Questions)), 0, 0, 0)
	for _, q := range m.Questions {
		w.name(q.Name)
		w.uint16(q.Type, q.Class)
	}
	for section, records := range [][]Record{m.Answers, m.Authority, m.Extra} {
		for i, record := range records {
			before := len(w.data)
			w.record(record)
			if len(w.data) > limit {
				w.data = w.data[:before]
				binary.BigEndian.PutUint16(w.data[2:], m.Flags|FlagTruncated)
				return w.data
			}
			binary.BigEndian.PutUint16(w.data[6+2*section:], uint16(i+1))
		}
	}
	return w.data
}

type writer struct {
	data    []byte
	offsets map[Name]int // where a name stands that can be pointed to
}

func (w *writer) uint16(values ...uint16) {
	for _, v := range values {
		w.data = binary.BigEndian.AppendUint16(w.data, v)
	}
}

func (w *writer) name(name Name) {
	for len(name) > 1 {
		if at, known := w.offsets[name]; known {
			w.uint16(0xc000 | uint16(at))
			return
		}
		if len(w.data) < 0x4000 {
			w.offsets[name] = len(w.data)
		}
		label := 1 + int(name[0])
		w.data = append(w.data, name[:label]...)
		name = name[label:]
	}
	w.data = append(w.data, 0)
}

// record leaves names in data as they are: not every reader takes compressed ones there.
func (w *writer) record(record Record) {
	w.name(record.Name)
	w.uint16(record.Type, record.Class)
	w.data = binary.BigEndian.AppendUint32(w.data, record.TTL)
	w.uint16(uint16(len(record.Data)))
	w.data = append(w.data, record.Data...)
}
