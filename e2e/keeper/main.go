// Command keeper writes to a database and to a file, waits for the disk each time, and
// checks at every start and now and then that all it ever wrote is there. Tests run it
// in a container.
//
//	keeper DIRECTORY
//
// The directory's file "log" has a number a line; "failed" says what was not there.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
)

func main() {
	dir := os.Args[1]
	if err := keep(dir); err != nil {
		os.WriteFile(filepath.Join(dir, "failed"), []byte(err.Error()+"\n"), 0o644)
		fmt.Fprintln(os.Stderr, "keeper:", err)
		os.Exit(1)
	}
}

var bucket = []byte("kept")

// between two writes, and how many of them between two checks.
const (
	pause = 20 * time.Millisecond
	often = 100
)

func keep(dir string) error {
	db, err := bbolt.Open(filepath.Join(dir, "db"), 0o644, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	var last uint64
	for n := 0; ; n++ {
		if n%often == 0 {
			if last, err = check(db, log.Name()); err != nil {
				return err
			}
		}
		last++
		if err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(bucket)
			if err != nil {
				return err
			}
			return b.Put(key(last), value(last))
		}); err != nil {
			return err
		}
		_, err = fmt.Fprintln(log, last)
		if err := errors.Join(err, log.Sync()); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}

// check returns the last number. Of the very last write the log may not know.
func check(db *bbolt.DB, log string) (last uint64, err error) {
	err = db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			return err
		}
		b := tx.Bucket(bucket)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			last++
			if !bytes.Equal(k, key(last)) || !bytes.Equal(v, value(last)) {
				return fmt.Errorf("entry %d of the database is %x: %x", last, k, v)
			}
			return nil
		})
	})
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(log)
	if err != nil {
		return 0, err
	}
	logged := uint64(0)
	for line := range bytes.Lines(text) {
		logged++
		if string(line) == fmt.Sprintln(logged) {
			continue
		}
		return 0, fmt.Errorf("line %d of the log is %q", logged, line)
	}
	switch logged {
	case last:
		return last, nil
	case last - 1: // it was ended between the two
		return last, appendLine(log, last)
	}
	return 0, fmt.Errorf("the log has %d numbers, the database %d", logged, last)
}

func appendLine(path string, n uint64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, n)
	return errors.Join(err, f.Sync(), f.Close())
}

func key(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func value(n uint64) []byte {
	sum := sha256.Sum256(key(n))
	return sum[:]
}
