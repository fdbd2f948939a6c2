"""An SMTP server (aiosmtpd) that keeps each mail as a file, and misbehaves where files in its folder say so.

receive_mail.py PORT FOLDER: mails go to FOLDER/mails, behind those that are there. While FOLDER/NAME is there, mails to NAME@... are treated so:
busy: 451; hang: no answer; close: the connection ends within the mail. Mails to refused@... are answered 550 always.
"""

import asyncio
import itertools
import pathlib
import sys

from aiosmtpd.smtp import SMTP

port, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
mails = folder / "mails"
mails.mkdir(parents=True, exist_ok=True)
numbers = itertools.count(len(list(mails.glob("*.eml"))))


class Keeper:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("refused@"):
            return "550 5.1.1 <" + address + "> is not here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        name = envelope.rcpt_tos[0].split("@")[0]
        if (folder / name).exists():
            if name == "busy":
                return "451 4.3.0 later"
            if name == "close":
                server.transport.abort()
                return "250 never heard"
            while name == "hang" and (folder / name).exists():
                await asyncio.sleep(0.05)
        number = next(numbers)
        written = mails / f"{number:06}.part"
        written.write_bytes(envelope.content)
        written.rename(mails / f"{number:06}.eml")
        return "250 OK"


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Keeper(), enable_SMTPUTF8=True), "127.0.0.1", port)
    await server.serve_forever()


asyncio.run(main())
