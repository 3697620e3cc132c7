package build

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
)

// A moduleIndex is one of the binary indexes by which kmod finds modules, modules.*.bin:
// a trie of keys, each with its values. The format is that of kmod's
// libkmod/libkmod-index.h; all numbers are big-endian.
type moduleIndex struct {
	root indexNode
}

// indexNode is a node of the trie. A key leads to it by its prefix and one byte for
// each step down.
type indexNode struct {
	prefix   string
	children map[byte]*indexNode
	values   []indexValue
}

type indexValue struct {
	text string
	// order is where the value stands among those of its key, lowest first.
	order uint32
}

const (
	indexMagic     = 0xB007F457
	indexVersion   = 0x00020001
	indexPrefix    = 0x80000000 // flags of an offset: what the node there has
	indexValues    = 0x40000000
	indexChildren  = 0x20000000
	indexHeader    = 12
	indexByteLimit = 0x80 // kmod's keys are ASCII
)

// add adds a value to a key, unless the key has it or is none that the format can hold.
func (x *moduleIndex) add(key, value string, order uint32) {
	if strings.ContainsFunc(key, func(r rune) bool { return r == 0 || r >= indexByteLimit }) {
		return
	}
	n := x.root.at(key)
	if !slices.ContainsFunc(n.values, func(v indexValue) bool { return v.text == value }) {
		n.values = append(n.values, indexValue{value, order})
	}
}

// at returns the node of a key, which it makes if needed.
func (n *indexNode) at(key string) *indexNode {
	for {
		same := 0
		for same < len(key) && same < len(n.prefix) && key[same] == n.prefix[same] {
			same++
		}
		if same < len(n.prefix) { // what the prefix has beyond the key goes to a child
			down := *n
			down.prefix = n.prefix[same+1:]
			*n = indexNode{prefix: n.prefix[:same], children: map[byte]*indexNode{n.prefix[same]: &down}}
		}
		if same == len(key) {
			return n
		}
		child := n.children[key[same]]
		if child == nil {
			child = &indexNode{prefix: key[same+1:]}
			if n.children == nil {
				n.children = map[byte]*indexNode{}
			}
			n.children[key[same]] = child
			return child
		}
		n, key = child, key[same+1:]
	}
}

// bytes returns the index as a file.
func (x *moduleIndex) bytes() []byte {
	var b bytes.Buffer
	b.Write(make([]byte, indexHeader))
	root := x.root.write(&b)
	out := b.Bytes()
	binary.BigEndian.PutUint32(out, indexMagic)
	binary.BigEndian.PutUint32(out[4:], indexVersion)
	binary.BigEndian.PutUint32(out[8:], root)
	return out
}

// write appends a node behind those below it and returns its offset with its flags.
func (n *indexNode) write(b *bytes.Buffer) uint32 {
	var first, last int
	var below []uint32
	if len(n.children) > 0 {
		first, last = indexByteLimit, 0
		for c := range n.children {
			first, last = min(first, int(c)), max(last, int(c))
		}
		below = make([]uint32, last-first+1)
		for i := range below {
			if child := n.children[byte(first+i)]; child != nil {
				below[i] = child.write(b)
			}
		}
	}
	offset := uint32(b.Len())
	if n.prefix != "" {
		offset |= indexPrefix
		b.WriteString(n.prefix + "\x00")
	}
	if len(below) > 0 {
		offset |= indexChildren
		b.Write([]byte{byte(first), byte(last)})
		for _, o := range below {
			_ = binary.Write(b, binary.BigEndian, o)
		}
	}
	if len(n.values) > 0 {
		offset |= indexValues
		slices.SortStableFunc(n.values, func(a, b indexValue) int { return cmp.Compare(a.order, b.order) })
		_ = binary.Write(b, binary.BigEndian, uint32(len(n.values)))
		for _, v := range n.values {
			_ = binary.Write(b, binary.BigEndian, v.order)
			b.WriteString(v.text + "\x00")
		}
	}
	return offset
}

// aliasKey is an alias as kmod looks for it: with "_" for "-" outside of brackets.
func aliasKey(alias string) string {
	key, class := []byte(alias), false
	for i, c := range key {
		switch {
		case c == '[':
			class = true
		case c == ']':
			class = false
		case c == '-' && !class:
			key[i] = '_'
		}
	}
	return string(key)
}
