// Package pgbinary encodes rows for COPY, and uuid arrays, in Postgres' binary format. The read
// models write with it.
package pgbinary

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// Copy is a set of rows that are not in any table yet.
type Copy struct {
	Table   string
	Columns []string
	Rows    io.Reader // in COPY's binary format
}

// CopyRows prepares rows for COPY; write appends the columns of one row. pgx.CopyFrom would do the
// same, but it boxes each value and looks up its type, which costs a replay more than all of its
// folding.
func CopyRows[V any](table string, columns []string, rows []V, write func(*Row, V)) Copy {
	return Copy{Table: table, Columns: columns, Rows: &copyReader[V]{rows: rows, write: write, columns: len(columns)}}
}

// Row receives the columns of a row in order, each by the method for its type.
type Row struct {
	buf []byte
	err error // the first error
}

// copyPiece is the number of bytes encoded at a time.
const copyPiece = 64 << 10

// copyHeader starts the binary format: a signature, no flags, no extension.
const copyHeader = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"

// copyTrailer takes the place of a row's column count at the end.
const copyTrailer = 0xffff

// copyReader encodes the rows while it is read.
type copyReader[V any] struct {
	rows       []V
	write      func(*Row, V)
	columns    int
	row        Row
	at         int // how much of row.buf was read
	begun, end bool
}

// Read implements io.Reader.
func (r *copyReader[V]) Read(p []byte) (int, error) {
	if r.at == len(r.row.buf) {
		if r.end {
			return 0, io.EOF
		}
		r.fill()
	}
	if r.row.err != nil {
		return 0, r.row.err
	}
	n := copy(p, r.row.buf[r.at:])
	r.at += n
	return n, nil
}

func (r *copyReader[V]) fill() {
	r.at, r.row.buf = 0, r.row.buf[:0]
	if !r.begun {
		r.begun, r.row.buf = true, append(r.row.buf, copyHeader...)
	}
	for len(r.rows) > 0 && len(r.row.buf) < copyPiece {
		r.row.buf = binary.BigEndian.AppendUint16(r.row.buf, uint16(r.columns))
		r.write(&r.row, r.rows[0])
		r.rows = r.rows[1:]
	}
	if len(r.rows) == 0 {
		r.end, r.row.buf = true, binary.BigEndian.AppendUint16(r.row.buf, copyTrailer)
	}
}

func (r *Row) size(n int) { r.buf = binary.BigEndian.AppendUint32(r.buf, uint32(n)) }

// Null writes a null, for a column of any type.
func (r *Row) Null() { r.buf = binary.BigEndian.AppendUint32(r.buf, 1<<32-1) }

// ID writes a uuid.
func (r *Row) ID(v uuid.UUID) {
	r.size(len(v))
	r.buf = append(r.buf, v[:]...)
}

// Text writes a text.
func (r *Row) Text(v string) {
	r.size(len(v))
	r.buf = append(r.buf, v...)
}

// Int writes an integer.
func (r *Row) Int(v int32) {
	r.size(4)
	r.buf = binary.BigEndian.AppendUint32(r.buf, uint32(v))
}

// Long writes a bigint.
func (r *Row) Long(v int64) {
	r.size(8)
	r.buf = binary.BigEndian.AppendUint64(r.buf, uint64(v))
}

// Bool writes a boolean.
func (r *Row) Bool(v bool) {
	r.size(1)
	if v {
		r.buf = append(r.buf, 1)
	} else {
		r.buf = append(r.buf, 0)
	}
}

// Epoch is the zero of Postgres timestamps, in Unix microseconds.
var Epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

// Time writes a timestamptz.
func (r *Row) Time(v time.Time) { r.Long(v.UnixMicro() - Epoch) }

// JSON writes a jsonb.
func (r *Row) JSON(v []byte) {
	const version = 1 // of jsonb's binary format
	r.size(1 + len(v))
	r.buf = append(append(r.buf, version), v...)
}

// numeric encodes decimals in the binary format.
var numeric = pgtype.NumericCodec{}.PlanEncode(nil, pgtype.NumericOID, pgtype.BinaryFormatCode, pgtype.Numeric{})

// Decimal writes a numeric, given as decimal text.
func (r *Row) Decimal(v string) {
	var n pgtype.Numeric
	err := n.Scan(v)
	if err == nil {
		at := len(r.buf)
		r.size(0)
		var buf []byte
		if buf, err = numeric.Encode(n, r.buf); err == nil {
			r.buf = buf
			binary.BigEndian.PutUint32(r.buf[at:], uint32(len(r.buf)-at-4))
		}
	}
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("the decimal %q: %w", v, err)
	}
}

// Optional writes the value that v points to, or null if v is nil: Optional(r, v, (*Row).ID).
func Optional[T any](r *Row, v *T, write func(*Row, T)) {
	if v == nil {
		r.Null()
		return
	}
	write(r, *v)
}
