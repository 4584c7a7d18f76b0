// Go's os/exec: goroutines take turns from one counter; each turn runs PROGRAM to its end, with stdin,
// stdout and stderr inherited; or, with the word "captured" at the end, PROGRAM with that argument, with stdin
// from /dev/null, stdout and stderr captured. Usage: spawn-go PROGRAM AT_A_TIME COUNT [captured]. Prints one
// line of JSON.
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

func fail(problem any) {
	fmt.Fprintln(os.Stderr, "spawn-go:", problem)
	os.Exit(1)
}

func number(text string) int64 {
	value, problem := strconv.ParseInt(text, 10, 64)
	if problem != nil || value < 1 {
		fail("not a positive number: " + text)
	}
	return value
}

func run(program string) {
	command := exec.Command(program)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	if problem := command.Run(); problem != nil {
		fail(problem)
	}
}

func capture(program string) {
	var stdout, stderr bytes.Buffer
	command := exec.Command(program, "captured")
	command.Stdout, command.Stderr = &stdout, &stderr
	if problem := command.Run(); problem != nil {
		fail(problem)
	}
	if stdout.String() != "captured\n" {
		fail("not all of the output came")
	}
}

func main() {
	one := run
	if len(os.Args) == 5 && os.Args[4] == "captured" {
		one = capture
	} else if len(os.Args) != 4 {
		fail("usage: spawn-go PROGRAM AT_A_TIME COUNT [captured]")
	}
	program, atATime, count := os.Args[1], number(os.Args[2]), number(os.Args[3])
	left := count
	var turns sync.WaitGroup
	start := time.Now()
	for i := int64(0); i < atATime; i++ {
		turns.Add(1)
		go func() {
			defer turns.Done()
			for atomic.AddInt64(&left, -1) >= 0 {
				one(program)
			}
		}()
	}
	turns.Wait()
	fmt.Printf("{\"rate\": %.1f, \"count\": %d}\n", float64(count)/time.Since(start).Seconds(), count)
}
