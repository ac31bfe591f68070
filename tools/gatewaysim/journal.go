package gatewaysim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// maxLine is longer than any line of the journal.
const maxLine = 1 << 20

// journal is the books' file. Writes survive a crash of the process, but not of the machine: they
// are not synced.
type journal struct {
	file *os.File
}

// openBooks reads the books from path and keeps the file open. The
// file is locked, so that two simulators do not write the same books.
func openBooks(path string) (*books, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of the books: %w", err)
	}
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the books: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("books %s are in use by another simulator; use another folder", path)
	}
	b := newBooks()
	end, err := b.read(lock)
	if err == nil {
		err = lock.Truncate(end) // an incomplete last line
	}
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("read the books %s: %w", path, err)
	}
	if _, err := lock.Seek(end, 0); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("read the books %s: %w", path, err)
	}
	b.journal = &journal{file: lock}
	return b, nil
}

// read applies every complete line and returns where they end.
func (b *books) read(file *os.File) (int64, error) {
	var end int64
	r := bufio.NewReaderSize(file, maxLine)
	for {
		line, err := r.ReadSlice('\n')
		if len(line) == 0 || line[len(line)-1] != '\n' {
			if errors.Is(err, bufio.ErrBufferFull) {
				return end, err
			}
			return end, nil
		}
		var rec record
		if err := json.Unmarshal(line, &rec); err != nil {
			return end, fmt.Errorf("at byte %d: %w", end, err)
		}
		b.apply(rec)
		end += int64(len(line))
	}
}

// write appends records by one write, so that a crash leaves complete lines or an incomplete last
// one.
func (j *journal) write(records ...record) error {
	var lines []byte
	for _, r := range records {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		lines = append(append(lines, line...), '\n')
	}
	_, err := j.file.Write(lines)
	return err
}

func (j *journal) close() error { return j.file.Close() }
