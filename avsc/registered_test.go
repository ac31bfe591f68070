package avsc

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/domain"
)

// shelf is a registry with the schemas that were put on it.
type shelf struct {
	texts map[uint32]string
	asked int
	away  error
}

func (s *shelf) SchemaText(_ context.Context, id uint32) (string, error) {
	s.asked++
	if s.away != nil {
		return "", s.away
	}
	return s.texts[id], nil
}

// registered returns a writer whose schemas are on a shelf, with ids from 1000 on.
func registered(t *testing.T) (*Registered, *shelf) {
	ids, s := map[string]int{}, &shelf{texts: map[uint32]string{}}
	for i, schema := range Schemas() {
		require.Equal(t, "com.dopaminestore.product.events."+schema.EventType+"Event", schema.Name)
		ids[schema.EventType] = 1000 + i
		s.texts[uint32(1000+i)] = schema.Text
	}
	r, err := NewRegistered(ids)
	require.NoError(t, err)
	return r, s
}

func TestDecoder_BothFramings(t *testing.T) {
	writer, source := registered(t)
	decoder := NewDecoder(source)
	for name, gen := range eventGenerators {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				e := genEnvelope(t, gen(t))
				framed, err := writer.Marshal([]byte("before"), e)
				require.NoError(t, err)
				framed = framed[len("before"):]
				require.Equal(t, byte(0), framed[0], "the magic byte of the Confluent wire format")
				require.Equal(t, source.texts[binary.BigEndian.Uint32(framed[1:])], known.current[name].text)
				single, err := Marshal(nil, e)
				require.NoError(t, err)
				require.Equal(t, single[headerSize:], framed[registeredSize:], "one record, two framings")
				for _, value := range [][]byte{framed, single} {
					back, err := decoder.Unmarshal(t.Context(), value, HeadersOf(e))
					require.NoError(t, err)
					require.Equal(t, asText(t, e), asText(t, back))
				}
				_, err = (*Decoder)(nil).Unmarshal(t.Context(), single, HeadersOf(e))
				require.NoError(t, err)
				_, err = (*Decoder)(nil).Unmarshal(t.Context(), framed, HeadersOf(e))
				require.ErrorIs(t, err, errNoRegistry, "nobody says what the id stands for")
			})
		})
	}
	require.Equal(t, len(eventGenerators), source.asked, "each id is asked for once")
}

func TestDecoder_DoesNotRetryForEveryRecord(t *testing.T) {
	e := rapid.Custom(func(t *rapid.T) domain.Envelope { return genEnvelope(t, eventGenerators["SlotExpired"](t)) }).Example(1)
	writer, source := registered(t)
	value, err := writer.Marshal(nil, e)
	require.NoError(t, err)
	for name, spoil := range map[string]func(){
		"away": func() { source.away = errors.New("away") },
		"somebody's schema": func() {
			clear(source.texts)
			source.texts[binary.BigEndian.Uint32(value[1:])] = `{"type":"record","name":"x.Y","fields":[]}`
		},
		"no schema": func() { clear(source.texts) },
	} {
		_, source = registered(t)
		spoil()
		decoder := NewDecoder(source)
		for range 10 {
			_, err := decoder.Unmarshal(t.Context(), value, HeadersOf(e))
			require.Error(t, err, name)
		}
		require.Equal(t, 1, source.asked, name)
	}
}

func TestNewRegistered_RequiresAllIDs(t *testing.T) {
	_, err := NewRegistered(map[string]int{"SlotAcquired": 1})
	require.Error(t, err)
}
