// Package sockfilter has the kernel filter what sockets hear, by programs of classic
// BPF.
package sockfilter

import (
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A Filter is a program as the kernel takes it.
type Filter []unix.SockFilter

// Assemble assembles a program.
func Assemble(program ...bpf.Instruction) (Filter, error) {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, err
	}
	f := make(Filter, len(raw))
	for i, op := range raw {
		f[i] = unix.SockFilter{Code: op.Op, Jt: op.Jt, Jf: op.Jf, K: op.K}
	}
	return f, nil
}

// Attach puts it on a socket (SO_ATTACH_FILTER), in the place of one that is there.
func (f Filter) Attach(fd uintptr) error {
	return unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]})
}

// Attach assembles a program and puts it on a socket.
func Attach(fd uintptr, program ...bpf.Instruction) error {
	f, err := Assemble(program...)
	if err != nil {
		return err
	}
	return f.Attach(fd)
}
