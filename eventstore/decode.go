package eventstore

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/dopaminestore/dopamine/internal/pgbinary"
)

// decoder decodes rows of selectEvents from Postgres' binary format. Replays read only
// such rows, and scanning column by column halves their
// rate. It keeps one copy of each type's name, and copies the variable-length columns
// of a row into memory that many rows share.
type decoder struct {
	types   map[string]string
	chunk   []byte // rows are copied to its end
	checked bool
}

// chunkSize is how much memory rows share: large compared with a row, small compared with a
// batch, since one retained row retains all of it.
const chunkSize = 64 << 10

// columns are the types of selectEvents' columns.
var columns = [...]uint32{pgtype.Int8OID, pgtype.UUIDOID, pgtype.UUIDOID, pgtype.Int4OID, pgtype.UUIDOID,
	pgtype.TextOID, pgtype.Int4OID, pgtype.JSONOID,
	pgtype.TextOID, pgtype.TextOID, pgtype.TextOID, pgtype.TextOID, pgtype.TimestamptzOID}

func (d *decoder) decode(rows pgx.Rows, r *Recorded) error {
	if !d.checked {
		for i, field := range rows.FieldDescriptions() {
			isText := columns[i] == pgtype.TextOID || columns[i] == pgtype.JSONOID // the same in both formats
			if field.DataTypeOID != columns[i] || field.Format != pgx.BinaryFormatCode && !isText {
				return fmt.Errorf("eventstore: column %s has type %d in format %d", field.Name, field.DataTypeOID, field.Format)
			}
		}
		d.types = map[string]string{}
		d.checked = true
	}
	raw := rows.RawValues() // valid until the next row
	r.Position = int64(binary.BigEndian.Uint64(raw[0]))
	copy(r.ID[:], raw[1])
	copy(r.Stream[:], raw[2])
	r.Version = int(int32(binary.BigEndian.Uint32(raw[3])))
	copy(r.Key[:], raw[4])
	typ, known := d.types[string(raw[5])]
	if !known {
		typ = string(raw[5])
		d.types[typ] = typ
	}
	r.Type = typ
	r.SchemaVersion = int(int32(binary.BigEndian.Uint32(raw[6])))
	r.Payload = d.keep(raw[7])
	r.Meta = Meta{
		Traceparent:   string(raw[8]),
		CorrelationID: string(raw[9]),
		CausationID:   string(raw[10]),
		Actor:         string(raw[11]),
	}
	r.RecordedAt = time.UnixMicro(int64(binary.BigEndian.Uint64(raw[12])) + pgbinary.Epoch).UTC()
	return nil
}

// keep copies b to memory that outlives the row.
func (d *decoder) keep(b []byte) []byte {
	if cap(d.chunk)-len(d.chunk) < len(b) {
		d.chunk = make([]byte, 0, max(chunkSize, len(b)))
	}
	from := len(d.chunk)
	d.chunk = append(d.chunk, b...)
	return d.chunk[from:len(d.chunk):len(d.chunk)]
}
