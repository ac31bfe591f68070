package main

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// serveBareStreams is the limit of product streams: it accepts connections, and on a signal writes
// the bytes in the file to each, from one loop per processor.
func serveBareStreams(ctx context.Context, addr, file string) error {
	event, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() }) // Accept then ends
	now := make(chan os.Signal, 1)
	signal.Notify(now, syscall.SIGUSR1)
	var mu sync.Mutex
	var conns []net.Conn
	go func() {
		for range now {
			mu.Lock()
			var loops sync.WaitGroup
			n := runtime.GOMAXPROCS(0)
			for part := range n {
				loops.Go(func() {
					for i := part; i < len(conns); i += n {
						_, _ = conns[i].Write(event) // the crowd notices missing clients
					}
				})
			}
			loops.Wait()
			mu.Unlock()
		}
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil
		}
		line, err := bufio.NewReaderSize(conn, 64).ReadString('\n')
		if err != nil {
			_ = conn.Close()
			continue
		}
		if !strings.Contains(line, "stream") {
			_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
			_ = conn.Close()
			continue
		}
		_, _ = conn.Write(append([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), event...))
		mu.Lock()
		conns = append(conns, conn)
		mu.Unlock()
	}
}
